"""RFC 9162 tree over SHA-512, judged by the RFC's own recursive definition written out here."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import merkle
from agent.core.errors import FormatError


def mth(leaves: list[bytes]) -> bytes:
    """Section 2.1.1, literally."""
    if len(leaves) == 1:
        return hashlib.sha512(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return hashlib.sha512(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    """Section 2.1.3.1, literally."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*path(index, leaves[:k]), mth(leaves[k:])]
    return [*path(index - k, leaves[k:]), mth(leaves[:k])]


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def some(n: int) -> list[bytes]:
    return [b"leaf %d" % i for i in range(n)]


@pytest.mark.parametrize("size", range(1, 35))
def test_equals_the_recursive_definition(size: int) -> None:
    leaves = some(size)
    assert merkle.root(leaves) == mth(leaves)
    for index in range(size):
        proof = merkle.proof(leaves, index)
        assert list(proof) == path(index, leaves)
        assert merkle.proof_length(size, index) == len(proof)
        assert merkle.verify_proof(mth(leaves), size, index, leaves[index], proof)


@pytest.mark.parametrize("size", range(1, 20))
def test_index_size_and_length_are_part_of_the_proof(size: int) -> None:
    leaves = some(size)
    root = merkle.root(leaves)
    for index in range(size):
        proof = merkle.proof(leaves, index)
        for other in set(range(-1, size + 2)) - {index}:
            assert not merkle.verify_proof(root, size, other, leaves[index], proof)
        for wrong in ((*proof, b"\0" * 64), proof[:-1] if proof else (b"\0" * 64,)):
            assert not merkle.verify_proof(root, size, index, leaves[index], wrong)
        assert not merkle.verify_proof(root, size, index, leaves[index] + b"x", proof)


def test_every_bit_of_root_and_proof_counts() -> None:
    leaves = some(5)
    root, proof = merkle.root(leaves), merkle.proof(leaves, 2)
    for position in range(len(root) * 8):
        assert not merkle.verify_proof(flip(root, position), 5, 2, leaves[2], proof)
    for step, sibling in enumerate(proof):
        for position in range(0, 512, 17):
            bad = (*proof[:step], flip(sibling, position), *proof[step + 1 :])
            assert not merkle.verify_proof(root, 5, 2, leaves[2], bad)


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_node_does_not_pass_for_a_leaf() -> None:
    leaves = some(4)
    left, right = merkle.root(leaves[:2]), merkle.root(leaves[2:])
    assert not merkle.verify_proof(merkle.root(leaves), 2, 0, left, (right,))
    assert merkle.root([left, right]) != merkle.root(leaves)


@given(
    root=st.binary(max_size=70),
    size=st.integers(-3, 2**40),
    index=st.integers(-3, 2**40),
    leaf=st.binary(max_size=10),
    proof=st.lists(st.binary(max_size=70), max_size=40),
)
def test_verify_never_raises_and_refuses_noise(
    root: bytes, size: int, index: int, leaf: bytes, proof: list[bytes]
) -> None:
    assert not merkle.verify_proof(root, size, index, leaf, proof)


def test_no_leaf_no_tree() -> None:
    with pytest.raises(FormatError):
        merkle.root([])
    with pytest.raises(FormatError):
        merkle.proof(some(3), 3)
    with pytest.raises(FormatError):
        merkle.proof_length(3, 3)
