"""Statements: one form, closed domains, a life of at most a day."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from typing import Any

import pytest
import rfc8785

from agent import sealing
from agent.core.errors import FormatError, Oversized, UnsupportedVersion
from agent.core.statement import MAX_BYTES, STORAGES, USES, AuditHead, Statement, now_in_seconds

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GOOD = Statement(
    "bundle",
    "Ed25519",
    CREATED,
    CREATED + timedelta(hours=24),
    "unit:app.service",
    "relying.example",
    "memory",
    "6a1c1f0e-5b1d-4f57-9f5a-0e6d2f0c9b11",
    "guest",
    None,
    "0.1.0",
    AuditHead(12, "5e" * 32),
)


def test_round_trip_and_digest() -> None:
    others = [replace(GOOD, use=use) for use in USES] + [replace(GOOD, storage=storage) for storage in STORAGES]
    for statement in (GOOD, replace(GOOD, tas_nonce="0f" * 32, audit=None), *others):
        data = statement.canonical()
        assert Statement.parse(data) == statement
        assert json.loads(data) == statement.to_json()
        assert statement.digest() == hashlib.sha512(data).digest()


@pytest.mark.parametrize("owner", ["", 'unit:"a"\\b', "é/\u00df", "\U0001f600\ufb33", "a&<>'\u00ad"])
def test_its_bytes_are_those_of_the_document(owner: str) -> None:
    audits = (None, AuditHead(0, "00" * 32), AuditHead(2**53 - 1, "5e" * 32))
    for audit, nonce in product(audits, (None, "0f" * 32)):
        statement = replace(GOOD, owner=owner, audience=owner[::-1], audit=audit, tas_nonce=nonce)
        assert statement.canonical() == rfc8785.dumps(statement.to_json())
        assert Statement.parse(statement.canonical()) == statement


def test_every_field_counts() -> None:
    changes: dict[str, Any] = {
        "use": "raw",
        "algorithm": "ES256",
        "created": CREATED + timedelta(seconds=1),
        "expires": CREATED + timedelta(hours=1),
        "owner": "",
        "audience": "",
        "storage": "tas",
        "boot_id": "6a1c1f0e-5b1d-4f57-9f5a-0e6d2f0c9b12",
        "time_source": "tas",
        "tas_nonce": "00" * 32,
        "agent_version": "0.1.1",
        "audit": None,
    }
    digests = {replace(GOOD, **{name: value}).digest() for name, value in changes.items()}
    others = {
        replace(GOOD, audit=AuditHead(13, "5e" * 32)).digest(),
        replace(GOOD, audit=AuditHead(12, "5f" * 32)).digest(),
        replace(GOOD, storage="snp-derived").digest(),
    }
    assert changes.keys() == {field.name for field in fields(Statement)}
    assert len(digests | others | {GOOD.digest()}) == len(changes) + 4


def test_a_key_is_kept_in_memory_or_under_a_root_of_a_known_kind() -> None:
    assert {"memory", sealing.TAS, sealing.SNP_DERIVED} == STORAGES


@pytest.mark.parametrize(
    "change",
    [
        {"use": "everything"},
        {"use": ""},
        {"algorithm": ""},
        {"algorithm": "Ed 25519"},
        {"expires": CREATED},
        {"expires": CREATED - timedelta(hours=1)},
        {"expires": CREATED + timedelta(hours=24, seconds=1)},
        {"created": CREATED.replace(tzinfo=None)},
        {"created": CREATED.replace(microsecond=1)},
        {"created": CREATED.astimezone(timezone(timedelta(hours=1)))},
        {"owner": "x" * 257},
        {"owner": "a\nb"},
        {"audience": "\x1b"},
        {"audience": "\ud800"},
        {"boot_id": "6A1C1F0E-5B1D-4F57-9F5A-0E6D2F0C9B11"},
        {"boot_id": ""},
        {"storage": ""},
        {"storage": "disk"},
        {"storage": "Memory"},
        {"storage": "none"},
        {"storage": "memory,tas"},
        {"storage": None},
        {"storage": ["memory"]},
        {"time_source": "sundial"},
        {"tas_nonce": "0" * 63},
        {"tas_nonce": ""},
        {"agent_version": ""},
        {"audit": AuditHead(-1, "ab" * 32)},
        {"audit": AuditHead(1 << 53, "ab" * 32)},
        {"audit": AuditHead(1, "ab" * 31)},
        {"audit": AuditHead(1, "AB" * 32)},
    ],
)
def test_values_out_of_their_domain_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        replace(GOOD, **change)


def test_parsing_is_strict() -> None:
    document = GOOD.to_json()
    for name in document:
        with pytest.raises(FormatError):
            Statement.from_json({key: value for key, value in document.items() if key != name})
    heads: list[Any] = [
        {},
        {"seq": 1},
        {"seq": "1", "head": "ab" * 32},
        {"seq": True, "head": "ab" * 32},
        {"seq": 1, "head": 1},
        {"seq": 1, "head": "ab" * 32, "more": 1},
        [1, "ab" * 32],
        0,
        "",
    ]
    for head in heads:
        with pytest.raises(FormatError):
            Statement.from_json({**document, "audit": head})
    wrongs: list[Any] = [{**document, "more": 1}, {**document, "tas_nonce": 1}, {**document, "created": 0}, [], None]
    for wrong in wrongs:
        with pytest.raises(FormatError):
            Statement.from_json(wrong)
    with pytest.raises(FormatError, match="canonical"):
        Statement.parse(json.dumps(document).encode())
    with pytest.raises(Oversized):
        Statement.parse(b" " * (MAX_BYTES + 1))


@pytest.mark.parametrize("name", ["tee-agent/statement/v1", "tee-agent/statement/v3", "", 2, None])
def test_an_unknown_type_is_an_unknown_version(name: Any) -> None:
    with pytest.raises(UnsupportedVersion, match="only tee-agent/statement/v2 is read") as caught:
        Statement.from_json({**GOOD.to_json(), "type": name})
    assert caught.value.code == "format.version"


def test_the_first_version_is_refused_as_such_and_not_for_what_it_lacks() -> None:
    old = {key: value for key, value in GOOD.to_json().items() if key != "audit"}
    with pytest.raises(UnsupportedVersion, match="its type is 'tee-agent/statement/v1'"):
        Statement.from_json({**old, "type": "tee-agent/statement/v1"})


def test_now_in_seconds() -> None:
    moment = datetime(2026, 1, 2, 4, 4, 5, 999, tzinfo=timezone(timedelta(hours=1)))
    assert now_in_seconds(moment) == CREATED
