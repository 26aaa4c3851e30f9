"""Merkle tree of RFC 9162 section 2.1, over SHA-512: many challenges under one root, one short proof each.

A leaf is hashed as ``SHA-512(0x00 || leaf)``, a node as ``SHA-512(0x01 || left || right)``, so neither passes for the
other. The tree of n leaves splits at the largest power of two below n. Vectors: docs/vectors/merkle.json.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from agent.core.errors import FormatError

HASH_SIZE = 64
"""Bytes of a node (SHA-512)."""

MAX_DEPTH = 32
"""Hashes in a proof at the most: trees larger than 2^32 leaves are refused."""


def leaf_hash(leaf: bytes) -> bytes:
    """64 bytes."""
    return hashlib.sha512(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """64 bytes."""
    return hashlib.sha512(b"\1" + left + right).digest()


class Tree:
    """All levels of the tree over ``leaves`` (at least one), from the leaf hashes up.

    Pairing neighbours and carrying a lone last node up unchanged gives the tree of RFC 9162 section 2.1.1.
    ``hashed``: the leaves are given by their ``leaf_hash``, 64 bytes each. Raises FormatError for no leaf at all: the
    empty tree proves nothing.
    """

    def __init__(self, leaves: Sequence[bytes], *, hashed: bool = False) -> None:
        if not leaves:
            raise FormatError("a tree has at least one leaf", record="merkle")
        self._levels = [list(leaves) if hashed else [leaf_hash(leaf) for leaf in leaves]]
        while len(self._levels[-1]) > 1:
            self._levels.append(_parents(self._levels[-1]))

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        """64 bytes."""
        return self._levels[-1][0]

    def proof(self, index: int) -> tuple[bytes, ...]:
        """Siblings from leaf ``index`` up (RFC 9162 section 2.1.3.1), 64 bytes each. Raises FormatError."""
        if not 0 <= index < self.size:
            raise FormatError(f"leaf {index} is not in a tree of {self.size}", record="merkle")
        path = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < len(level):
                path.append(level[sibling])
            index >>= 1
        return tuple(path)


def _parents(level: list[bytes]) -> list[bytes]:
    pairs = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return pairs + level[len(pairs) * 2 :]


def root(leaves: Sequence[bytes]) -> bytes:
    """Root of the tree over ``leaves``, 64 bytes. Raises FormatError without leaves."""
    return Tree(leaves).root


def proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Inclusion proof of leaf ``index``. Raises FormatError for an index outside the tree."""
    return Tree(leaves).proof(index)


def proof_length(size: int, index: int) -> int:
    """How many hashes the proof of leaf ``index`` in a tree of ``size`` leaves has, exactly. Raises FormatError."""
    if not (0 <= index < size <= 1 << MAX_DEPTH):
        raise FormatError(f"leaf {index} is not in a tree of {size}", record="merkle")
    length, last = 0, size - 1
    while last:
        length += 1 if index & 1 or index < last else 0
        index, last = index >> 1, last >> 1
    return length


def verify_proof(root: bytes, size: int, index: int, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """True when ``leaf`` is leaf ``index`` of the tree with ``size`` leaves and this ``root``.

    RFC 9162 section 2.1.3.2; the index must lie inside the tree and the proof have exactly the length that index and
    size ask for. No input raises an error.
    """
    if not (0 <= index < size <= 1 << MAX_DEPTH) or len(proof) != proof_length(size, index):
        return False
    if len(root) != HASH_SIZE or any(len(sibling) != HASH_SIZE for sibling in proof):
        return False
    node, last, siblings = leaf_hash(leaf), size - 1, iter(proof)
    while last:
        if index & 1:
            node = node_hash(next(siblings), node)
        elif index < last:
            node = node_hash(node, next(siblings))
        index, last = index >> 1, last >> 1
    return node == root
