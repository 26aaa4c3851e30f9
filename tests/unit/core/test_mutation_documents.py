"""Statements and policies: each flipped bit, each length. What is still taken says what it says, nothing less."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.core import policy, policyset
from agent.core.errors import FormatError
from agent.core.policy import Policy
from agent.core.statement import STORAGES, Statement
from tests.support.bundles import statement
from tests.support.mutations import cuts, flips

STATEMENT = statement(datetime(2026, 6, 1, tzinfo=UTC), tas_nonce="5a" * 32)
ABOUT = {"policy_id": "a", "key_id": "b"}
MEASURED = {"exact_match": "5a" * 48}
POLICIES: dict[str, dict[str, Any]] = {
    "SNP": {
        "measurement": MEASURED,
        "vmpl": {"exact_match": 0},
        "policy": {"debug_allowed": False},
        "reported_tcb": {"snp": {"min_value": 5}},
    },
    "TDX": {
        "body": dict.fromkeys(("mr_td", "rtmr0", "rtmr1", "rtmr2"), MEASURED),
        "tcb": {"platform_tcb": "UpToDate", "update": "standard"},
    },
}


def document(kind: str) -> bytes:
    found = {"metadata": {"policy_type": kind, **ABOUT}, "validation_rules": POLICIES[kind]}
    return json.dumps(found, separators=(",", ":")).encode()


def test_every_flipped_bit_of_a_statement_is_refused_or_another_digest() -> None:
    data, digest = STATEMENT.canonical(), STATEMENT.digest()
    taken = 0
    for _, changed in flips(data):
        try:
            found = Statement.parse(changed)
        except FormatError:
            continue
        taken += 1
        assert found.canonical() == changed
        assert found.digest() != digest
    assert taken  # a letter of the audience, for one


def test_where_a_key_is_kept_is_said_in_one_way_only() -> None:
    """Each value in place of the other is another statement; whatever else stands there is none at all."""
    value = b'"storage":"memory"'
    data = STATEMENT.canonical()
    assert data.count(value) == 1
    said = {one: data.replace(value, b'"storage":"%b"' % one.encode()) for one in STORAGES}
    assert {one: Statement.parse(changed).storage for one, changed in said.items()} == {one: one for one in STORAGES}
    assert len({Statement.parse(changed).digest() for changed in said.values()}) == len(STORAGES)
    for changed in said.values():
        begin = changed.index(b'"storage":') + len(b'"storage":')
        end = changed.index(b",", begin)
        words = [flip for _, flip in flips(changed[begin:end])] + [cut for _, cut in cuts(changed[begin:end])]
        words += [b'["memory"]', b"null", b"0", b"true", b"{}", b'"memory","storage":"tas"', b'"MEMORY"', b'"none"']
        for word in words:
            with pytest.raises(FormatError):
                Statement.parse(changed[:begin] + word + changed[end:])


def test_every_cut_of_a_statement_is_refused() -> None:
    for _, cut in cuts(STATEMENT.canonical()):
        with pytest.raises(FormatError):
            Statement.parse(cut)


@pytest.mark.parametrize("kind", POLICIES)
def test_every_flipped_bit_of_a_policy_is_refused_or_still_pins_the_workload(kind: str) -> None:
    data, sound = document(kind), Policy.from_bytes(document(kind))
    taken = 0
    for _, changed in flips(data):
        try:
            found = Policy.from_bytes(changed)
        except FormatError:
            continue
        taken += 1
        for name in policy.WORKLOAD[found.tee]:
            assert policyset.places(found.rules, name, ("body",)), changed
        # The same bytes in another case are the same digits; all else is another policy.
        assert found != sound or changed.lower() == data.lower()
    assert taken


@pytest.mark.parametrize("kind", POLICIES)
def test_every_cut_of_a_policy_is_refused(kind: str) -> None:
    for _, cut in cuts(document(kind)):
        with pytest.raises(FormatError):
            Policy.from_bytes(cut)
