"""Bundles by keys of every algorithm: judged alike, in one form only, and never under another algorithm's name."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core import bundle as form
from agent.core import canonical
from agent.core.algorithm import ALGORITHMS
from agent.core.errors import FormatError, SignatureInvalid, VerificationError
from agent.verify.bundle import BundleVerdict, verify_bundle
from tests.support.formats import PAYLOAD, Party
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]
AT = datetime.now(UTC)


@pytest.fixture(scope="module", params=ALGORITHMS)
def party(request: pytest.FixtureRequest, pki_state: Path) -> Party:
    return Party.on(machine("snp", pki_state), AT, "bundle", request.param)


@pytest.fixture(scope="module")
def made(party: Party) -> bytes:
    return bundle_of(party)


def bundle_of(party: Party) -> bytes:
    draft = form.Bundle(form.Payload.of(PAYLOAD), "orders", "shop.example", party.attachments())
    return draft.signed(party.private.sign(draft.signing_input())).encode()


def judged(party: Party, data: bytes) -> BundleVerdict:
    return verify_bundle(data, party.judge(AT), payload=PAYLOAD)


def changed(data: bytes, **members: Any) -> bytes:
    return canonical.encode({**json.loads(data), **members})


def test_it_verifies_and_says_by_what(party: Party, made: bytes) -> None:
    verdict = judged(party, made)
    name = party.private.algorithm.name
    assert verdict.to_json()["key"] == {"algorithm": name, "sha256": verdict.bundle.attachments.key_sha256.hex()}
    assert json.loads(made)["key"]["algorithm"] == json.loads(made)["statement"]["algorithm"] == name
    assert form.decode(made).encode() == made
    assert len(verdict.bundle.signature) == party.private.algorithm.signature_size


ED25519_ORDER = (1 << 252) + 27742317777372353535851937790883648493


def test_the_other_s_is_refused(party: Party, made: bytes) -> None:
    """ECDSA: n - s; Ed25519: s plus the order (RFC 8032, section 8.4)."""
    kind = party.private.algorithm
    half, signature = kind.signature_size // 2, form.decode(made).signature
    if kind.order:
        other = (kind.order - int.from_bytes(signature[half:], "big")).to_bytes(half, "big")
    else:
        other = (int.from_bytes(signature[half:], "little") + ED25519_ORDER).to_bytes(half, "little")
    with pytest.raises(SignatureInvalid):
        judged(party, changed(made, signature=canonical.b64(signature[:half] + other)))


def test_each_bit_of_signature_and_key_counts(party: Party, made: bytes) -> None:
    loaded = json.loads(made)
    signature, spki = form.decode(made).signature, party.spki
    for index in range(0, 8 * len(signature), 37):
        with pytest.raises(SignatureInvalid):
            judged(party, changed(made, signature=canonical.b64(flipped(signature, index))))
    for index in range(0, 8 * len(spki), 29):
        key = {**loaded["key"], "spki": canonical.b64(flipped(spki, index))}
        with pytest.raises((FormatError, SignatureInvalid)):
            judged(party, changed(made, key=key))


def flipped(data: bytes, bit: int) -> bytes:
    found = bytearray(data)
    found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


def test_other_sizes_are_refused(party: Party, made: bytes) -> None:
    signature = form.decode(made).signature
    for other in (signature[1:], b"\0" + signature, party.private.algorithm.to_der(signature) + b"\0", b""):
        with pytest.raises(FormatError, match="signature"):
            form.decode(changed(made, signature=canonical.b64(other)))
        with pytest.raises(FormatError, match="signature"):
            form.decode(made).signed(other).encode()


def test_the_key_has_one_name(party: Party, made: bytes) -> None:
    key = json.loads(made)["key"]
    for name in (*ALGORITHMS, "ES256", ""):
        if name != party.private.algorithm.name:
            with pytest.raises(FormatError, match="algorithm"):
                form.decode(changed(made, key={**key, "algorithm": name}))


def test_the_statement_must_say_the_same(party: Party) -> None:
    """Signed and quoted by the thief's own agent, were there one that lies."""
    for name in ALGORITHMS:
        if name != party.private.algorithm.name:
            lying = replace(party, statement=replace(party.statement, algorithm=name))
            with pytest.raises(VerificationError, match=f"the statement says {name} for bundle") as caught:
                judged(party, bundle_of(lying))
            assert [check.number for check in caught.value.checks if not check.ok] == [3]


@pytest.mark.parametrize("use", ["raw", "jws", "cose", "eat", "ssh", "internal"])
def test_keys_for_other_uses_make_no_bundles(party: Party, use: str) -> None:
    other = replace(party, statement=replace(party.statement, use=use))
    with pytest.raises(VerificationError, match=f"for {use}"):
        judged(party, bundle_of(other))
