"""The leaf's bytes: published vectors, every field counted, nothing ambiguous."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from agent.core import merkle
from agent.core.challenge import Leaf
from agent.core.errors import FormatError

VECTORS = json.loads((Path(__file__).resolve().parents[3] / "docs/vectors/merkle.json").read_text())


def leaf(**changed: Any) -> Leaf:
    plain = Leaf(
        random=b"\1" * 32,
        nonce=b"\2" * 16,
        payload_digest=b"\3" * 64,
        context="",
        audience="",
        key_sha256=b"\4" * 32,
        statement_digest=b"\5" * 64,
        caller={"uid": 1000, "gid": 1000, "groups": [1000], "unit": ""},
    )
    return dataclasses.replace(plain, **changed)


def from_vector(case: dict[str, Any]) -> Leaf:
    binary = ("random", "nonce", "payload_digest", "key_sha256", "statement_digest")
    fields: dict[str, Any] = {name: bytes.fromhex(value) if name in binary else value for name, value in case.items()}
    return Leaf(**fields)


@pytest.mark.parametrize("case", VECTORS["leaves"], ids=lambda case: case["name"])
def test_published_leaves(case: dict[str, Any]) -> None:
    encoded = from_vector(case["fields"]).encode()
    assert encoded.hex() == case["leaf"]
    assert merkle.leaf_hash(encoded).hex() == case["leaf_hash"]


@pytest.mark.parametrize("case", VECTORS["trees"], ids=lambda case: f"size-{case['size']}")
def test_published_trees(case: dict[str, Any]) -> None:
    leaves = [bytes.fromhex(text) for text in case["leaves"]]
    assert merkle.root(leaves).hex() == case["root"]
    for index, path in enumerate(case["proofs"]):
        proof = tuple(bytes.fromhex(text) for text in path)
        assert merkle.proof(leaves, index) == proof
        assert merkle.verify_proof(bytes.fromhex(case["root"]), case["size"], index, leaves[index], proof)


@pytest.mark.parametrize(
    "changed",
    [
        {"random": b"\7" * 32},
        {"nonce": b"\2" * 17},
        {"payload_digest": b""},
        {"context": "a"},
        {"audience": "a"},
        {"key_sha256": b"\0" * 32},
        {"statement_digest": b"\0" * 64},
        {"caller": {"uid": 0}},
        {"claims_unverified": {"uid": 0}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_field_changes_the_leaf(changed: dict[str, Any]) -> None:
    assert leaf(**changed).encode() != leaf().encode()


def test_layout_written_out() -> None:
    caller = b'{"gid":1000,"groups":[1000],"uid":1000,"unit":""}'
    fields = (b"\1" * 32, b"\2" * 16, b"\3" * 64, b"docs", b"", b"\4" * 32, b"\5" * 64, caller, b"{}")
    expected = b"tee-agent/v1\0challenge-leaf\0" + b"".join(struct.pack(">I", len(f)) + f for f in fields)
    assert leaf(context="docs").encode() == expected


def test_a_field_does_not_slide_into_its_neighbour() -> None:
    assert leaf(context="ab", audience="c").encode() != leaf(context="a", audience="bc").encode()
    assert leaf(caller={}, claims_unverified={"a": 1}).encode() != leaf(caller={"a": 1}).encode()


@pytest.mark.parametrize(
    "changed",
    [
        {"random": b"\7" * 31},
        {"nonce": b"\2" * 15},
        {"nonce": b"\2" * 65},
        {"payload_digest": b"\2" * 32},
        {"key_sha256": b""},
        {"statement_digest": b""},
        {"context": "a" * 257},
        {"audience": "a" * 257},
    ],
    ids=str,
)
def test_sizes(changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        leaf(**changed)


@pytest.mark.parametrize(
    "claims", [{"a": float("nan")}, {"a": 2**60}, {"a": b"x"}, {"a": "x" * 5000}, {"a": "\ud800"}], ids=repr
)
def test_claims_without_a_canonical_form(claims: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        leaf(claims_unverified=claims).encode()


def test_text_that_is_not_unicode() -> None:
    with pytest.raises(FormatError):
        leaf(context="\ud800")
