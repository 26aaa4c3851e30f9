"""The bundle's form: one byte form per document, every member under the signature, nothing unknown."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agent.core import binding, bundle, canonical
from agent.core.bundle import Attachments, Bundle, Fresh, Payload, Series
from agent.core.errors import FormatError, Oversized, UnsupportedVersion
from agent.core.model import Endorsements, Tee
from tests.unit.core.test_statement import GOOD

STATEMENT = replace(GOOD, expires=GOOD.created + timedelta(hours=20))
SPKI = bytes.fromhex("302a300506032b6570032100") + bytes(range(32))
ATTACHED = Attachments(Tee.SNP, b"report", Endorsements((b"cert", b"other"), (b"crl",), b"{}", b"{}"), SPKI, STATEMENT)
FRESH = Fresh(b"r" * 32, b"n" * 16, {"uid": 1000}, {"job": "x"}, b"h" * 64, 3, 1, (b"p" * 64, b"q" * 64))
PLAIN = Bundle(Payload.of(b"payload"), "context", "audience", ATTACHED).signed(bytes(range(64)))
PROVEN = replace(PLAIN, fresh=FRESH)


def document(made: Bundle = PROVEN) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(made.encode())
    return loaded


@pytest.mark.parametrize("made", [PLAIN, PROVEN, replace(PLAIN, context="", audience="\u00e9t\u00e9 \U0001f600")])
def test_round_trip(made: Bundle) -> None:
    data = made.encode()
    assert bundle.decode(data) == made
    assert data == canonical.encode(json.loads(data))
    assert set(document(made)) == {
        "audience",
        "context",
        "endorsements",
        "evidence",
        "fresh",
        "key",
        "payload",
        "signature",
        "statement",
        "type",
    }


def test_the_signing_input_is_as_documented() -> None:
    """Rebuilt here from the document alone, as docs/bundle.md tells it."""
    loaded = document()
    attached = b"tee-agent/v1\0bundle-attachments\0"
    for name in ("endorsements", "evidence", "key", "statement"):
        member = canonical.encode(loaded[name])
        attached += len(member).to_bytes(4, "big") + member
    head = canonical.encode({name: loaded[name] for name in ("audience", "context", "fresh", "payload", "type")})
    expected = b"tee-agent/v1\0bundle-signature\0"
    for field in (hashlib.sha512(attached).digest(), head):
        expected += len(field).to_bytes(4, "big") + field
    assert PROVEN.signing_input() == expected


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in leaves(item, (*path, index))]
    return [path]


def test_every_value_is_under_the_signature() -> None:
    """Whatever else can be decoded from a changed value has another signing input."""
    seen = {PROVEN.signing_input()}
    fixed = set()
    for path in leaves(document()):
        if path == ("signature",):
            continue
        loaded = document()
        holder = loaded
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = other(holder[path[-1]])
        try:
            found = bundle.decode(canonical.encode(loaded))
        except FormatError:
            fixed.add(".".join(map(str, path)))
            continue
        assert found.signing_input() not in seen, path
        seen.add(found.signing_input())
    assert fixed == {
        "evidence.tee",
        "key.algorithm",
        "key.spki",
        "payload.algorithm",
        "statement.time_source",
        "statement.type",
        "type",
    }


def other(value: Any) -> Any:
    if isinstance(value, int):
        return value + 1
    if value in ("bundle", "memory"):
        return {"bundle": "raw", "memory": "tas"}[value]
    if value is None:
        return "00" * 32
    text = str(value)
    if text.endswith("Z"):
        return text.replace("5Z", "6Z")
    return ("1" if text[:1] == "0" else "0" if text[:1].isdigit() else "B" if text[:1] == "A" else "A") + text[1:]


def test_members_are_exact_at_every_level() -> None:
    paths: list[tuple[str, ...]] = [(), ("payload",), ("key",), ("evidence",), ("endorsements",), ("statement",)]
    for path in [*paths, ("fresh",), ("statement", "audit")]:
        for change in ("add", "drop"):
            loaded = document()
            holder = loaded
            for step in path:
                holder = holder[step]
            if change == "add":
                holder["extra"] = 1
            else:
                holder.pop(min(holder))
            with pytest.raises(FormatError):
                bundle.decode(canonical.encode(loaded))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("payload", "algorithm"), "sha-256"),
        (("payload", "digest"), "00" * 32),
        (("payload", "size"), -1),
        (("payload", "size"), "1"),
        (("key", "algorithm"), "ES256"),
        (("key", "spki"), canonical.b64(SPKI[:-1])),
        (("key", "spki"), canonical.b64(b"1" + SPKI[1:])),
        (("evidence", "tee"), "software"),
        (("evidence", "blob"), ""),
        (("endorsements", "certificates"), ["AA=="] * 33),
        (("endorsements", "certificates"), [""]),
        (("endorsements", "tcb_info"), None),
        (("fresh", "index"), 3),
        (("fresh", "tree_size"), 0),
        (("fresh", "nonce"), "00" * 15),
        (("fresh", "nonce"), "00" * 65),
        (("fresh", "path"), ["00" * 63]),
        (("fresh", "path"), ["00" * 64] * 33),
        (("fresh", "caller"), "uid 0"),
        (("fresh", "claims_unverified"), {"x": "y" * 5000}),
        (("fresh",), False),
        (("context",), "a\nb"),
        (("context",), "x" * 257),
        (("audience",), None),
        (("signature",), ""),
        (("signature",), canonical.b64(bytes(63))),
    ],
)
def test_values_out_of_their_domain_are_refused(path: tuple[str, ...], value: Any) -> None:
    loaded = document()
    holder = loaded
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    with pytest.raises(FormatError):
        bundle.decode(canonical.encode(loaded))


def test_other_types_and_layouts_are_refused() -> None:
    with pytest.raises(UnsupportedVersion):
        bundle.decode(canonical.encode({**document(), "type": "tee-agent/bundle/v2"}))
    with pytest.raises(FormatError, match="canonical"):
        bundle.decode(json.dumps(document()).encode())
    with pytest.raises(Oversized):
        bundle.decode(b" " * (bundle.MAX_BYTES + 1))


def test_a_draft_has_no_encoding() -> None:
    with pytest.raises(FormatError, match="signature"):
        replace(PLAIN, signature=b"").encode()
    with pytest.raises(FormatError, match="allowed"):
        replace(PLAIN, attachments=replace(ATTACHED, endorsements=Endorsements((bytes(1 << 20),)))).encode()


def test_attachments_keep_to_ed25519() -> None:
    for spki in (b"", SPKI + b"\0", bytes(44)):
        with pytest.raises(FormatError):
            replace(ATTACHED, spki=spki)


def test_report_data_follows_the_mode() -> None:
    scope = binding.Scope(STATEMENT.audience, STATEMENT.boot_id)
    key = binding.signing_key(scope, "Ed25519", "bundle", SPKI, STATEMENT.digest())
    assert PLAIN.report_data() == key
    assert PROVEN.report_data() == binding.challenge_batch(scope, 3, b"h" * 64)


def test_the_leaf_is_the_bundles_own() -> None:
    leaf = PROVEN.leaf()
    assert (leaf.nonce, leaf.payload_digest, leaf.context, leaf.audience) == (
        b"n" * 16,
        PROVEN.payload.digest,
        "context",
        "audience",
    )
    assert leaf.key_sha256 == hashlib.sha256(SPKI).digest()
    assert leaf.statement_digest == STATEMENT.digest()
    with pytest.raises(FormatError):
        PLAIN.leaf()


def test_a_payload_is_its_digest_and_size() -> None:
    assert Payload.of(b"ab", b"c") == Payload.of_chunks(iter([b"a", b"bc"])) == Payload.of(b"abc")
    assert Payload.of(b"abc").digest == hashlib.sha512(b"abc").digest()
    assert Payload.of().size == 0
    for digest, size in ((b"", 0), (bytes(64), -1), (bytes(64), 2**53)):
        with pytest.raises(FormatError):
            Payload(digest, size)


@pytest.mark.parametrize("made", [PLAIN, PROVEN])
def test_what_is_issued_at_once_is_the_same(made: Bundle) -> None:
    def sign(data: bytes) -> bytes:
        return hashlib.sha512(data).digest()

    assert Series(made, sign).signed(made.payload) == made.signed(sign(made.signing_input())).encode()
