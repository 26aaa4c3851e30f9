"""Sealed data: the published vectors, what a blob is bound to, and that nothing else opens it."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import sealing
from agent.core import canonical
from agent.core.errors import FormatError, Oversized, SecretError, TeeAgentError, VerificationError
from agent.core.model import Secret
from agent.sealing import Sealer
from tests.support import sealed_vectors

SECRET = bytes(range(32))
LABELS = ("uid-1000", "orders")
Made = Callable[[Secret], Sealer]


def tas(secret: bytes = SECRET, policy_id: str = "sealing") -> Sealer:
    return Sealer.from_tas(Secret(secret), policy_id)


def snp(secret: bytes = SECRET) -> Sealer:
    return Sealer.from_snp(Secret(secret))


PUBLISHED: list[dict[str, Any]] = json.loads(sealed_vectors.FILE.read_text())["cases"]


def root_of(case: dict[str, Any]) -> Sealer:
    secret = bytes.fromhex(case["secret"])
    return snp(secret) if case["kind"] == "snp-derived" else tas(secret, case["policy_id"])


def test_the_published_file_is_what_independent_code_computes() -> None:
    assert json.loads(sealed_vectors.FILE.read_text()) == sealed_vectors.document()


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: f"{case['kind']}-{case['purpose']}")
def test_published_vectors(case: dict[str, Any]) -> None:
    sealer = root_of(case)
    assert (sealer.kind, sealer.root_id) == (case["kind"], case["root_id"])
    labels, plaintext, blob = tuple(case["labels"]), bytes.fromhex(case["plaintext"]), case["blob"].encode()
    assert sealer.seal_with(bytes.fromhex(case["salt"]), case["purpose"], labels, plaintext) == blob
    assert sealer.unseal(case["purpose"], labels, blob) == plaintext


@given(st.binary(max_size=300), st.sampled_from(["data", "key"]), st.lists(st.text("ab/é", max_size=4), max_size=8))
def test_what_is_sealed_comes_back(plaintext: bytes, purpose: str, labels: list[str]) -> None:
    blob = tas().seal(purpose, tuple(labels), plaintext)
    assert tas().unseal(purpose, tuple(labels), blob) == plaintext
    assert len(blob) <= sealing.MAX_BLOB


def test_a_blob_opens_for_what_it_was_sealed_for_only() -> None:
    blob = tas().seal("data", LABELS, b"x")
    others: list[tuple[Sealer, str, tuple[str, ...]]] = [
        (tas(), "key", LABELS),
        (tas(), "data", ("uid-1001", "orders")),
        (tas(), "data", ("uid-1000", "")),
        (tas(), "data", ("uid-1000",)),
        (tas(), "data", (*LABELS, "")),
        # The same letters, cut elsewhere.
        (tas(), "data", ("uid-1000o", "rders")),
        (tas(), "datauid-1000", ("orders",)),
        (tas(bytes(32)), "data", LABELS),
        (tas(SECRET, "other"), "data", LABELS),
        (snp(), "data", LABELS),
    ]
    for sealer, purpose, labels in others:
        with pytest.raises(VerificationError) as caught:
            sealer.unseal(purpose, labels, blob)
        assert caught.value.code == "verify.sealed"
    assert tas().unseal("data", LABELS, blob) == b"x"


def test_another_root_is_said_by_its_name() -> None:
    other = tas(bytes(32))
    with pytest.raises(VerificationError) as caught:
        other.unseal("data", LABELS, tas().seal("data", LABELS, b"x"))
    assert tas().root_id in caught.value.message
    assert other.root_id in caught.value.message


def test_a_root_with_the_same_name_does_not_open_it() -> None:
    """The name of a root is no key: a blob that names ours but was made under another is refused all the same."""
    ours, theirs = tas(), tas(bytes(32))
    theirs.root_id = ours.root_id
    with pytest.raises(VerificationError, match="another namespace"):
        ours.unseal("data", LABELS, theirs.seal("data", LABELS, b"x"))


def test_every_changed_bit_and_every_cut_is_refused() -> None:
    blob = tas().seal("data", LABELS, b"payload")
    sealer = tas()
    for index in range(len(blob)):
        for bit in range(8):
            changed = bytearray(blob)
            changed[index] ^= 1 << bit
            with pytest.raises((FormatError, VerificationError)):
                sealer.unseal("data", LABELS, bytes(changed))
        with pytest.raises(FormatError):
            sealer.unseal("data", LABELS, blob[:index])
    with pytest.raises(FormatError):
        sealer.unseal("data", LABELS, blob + b"\n")


@given(st.binary(max_size=400) | st.text('{}":,rootsalypcihex0123456789abcdef', max_size=300).map(str.encode))
def test_any_bytes_are_refused_in_our_own_words(data: bytes) -> None:
    with pytest.raises(TeeAgentError):
        tas().unseal("data", LABELS, data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", "tee-agent/sealed/v2"),
        ("root", "tas:sealing"),
        ("root", "tas::0123456789abcdef"),
        ("root", "other:0123456789abcdef"),
        ("root", "snp-derived:x:0123456789abcdef"),
        ("salt", "00" * 31),
        ("salt", "00" * 33),
        ("salt", "0A" * 32),
        ("ciphertext", "AAAA"),
        ("ciphertext", "*" * 24),
        ("ciphertext", None),
        ("nonce", "00"),
    ],
)
def test_blobs_of_another_form(name: str, value: Any) -> None:
    document = {**json.loads(tas().seal("data", LABELS, b"x")), name: value}
    with pytest.raises(FormatError):
        tas().unseal("data", LABELS, json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def test_sizes() -> None:
    sealer = tas()
    blob = sealer.seal("data", LABELS, bytes(sealing.MAX_PLAINTEXT))
    assert len(blob) <= sealing.MAX_BLOB
    assert len(sealer.unseal("data", LABELS, blob)) == sealing.MAX_PLAINTEXT
    with pytest.raises(Oversized):
        sealer.seal("data", LABELS, bytes(sealing.MAX_PLAINTEXT + 1))
    with pytest.raises(Oversized):
        sealer.unseal("data", LABELS, b"x" * (sealing.MAX_BLOB + 1))
    for labels in (("x" * 1025,), ("x",) * 9):
        with pytest.raises(FormatError):
            sealer.seal("data", labels, b"")


def test_no_two_blobs_share_a_salt() -> None:
    sealer = tas()
    blobs = [json.loads(sealer.seal("data", LABELS, b"same")) for _ in range(20)]
    for name in ("salt", "ciphertext"):
        assert len({blob[name] for blob in blobs}) == 20


@pytest.mark.parametrize("made", [lambda secret: Sealer.from_tas(secret, "p"), Sealer.from_snp])
def test_a_secret_that_is_too_short_is_refused_and_wiped(made: Made) -> None:
    short, good = Secret(bytes(range(31))), Secret(bytes(range(32)))
    with pytest.raises(SecretError) as caught:
        made(short)
    assert caught.value.code == "secret.short"
    made(good)
    assert (len(short), len(good)) == (0, 0)


def test_nothing_of_a_root_is_shown() -> None:
    sealer = tas()
    for shown in (repr(sealer), str(sealer), f"{sealer}"):
        assert shown == f"Sealer({sealer.root_id})"
    assert bytes(sealer._root).hex() not in sealer.root_id
    assert sealer.root_id.split(":")[-1] not in bytes(sealer._root).hex()


def test_a_root_is_neither_pickled_nor_copied() -> None:
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(SecretError):
            take(tas())


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"",'])
def test_what_takes_long_to_parse_is_not_parsed(unit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(canonical, "decode", parsed)
    with pytest.raises(FormatError, match="a few texts"):
        sealing.decode(b'{"a":[' + unit * 100_000 + b"0]}")
