"""The tree by its properties: against a reference that is as slow and as plain as RFC 9162 itself, on hostile proofs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import merkle
from agent.core.binding import Scope, challenge_batch
from agent.core.challenge import Leaf
from agent.core.errors import FormatError

some_leaves = st.lists(st.binary(max_size=200), min_size=1, max_size=70)
"""Equal ones among them: two challenges may have the same nonce."""


def h(prefix: bytes, *parts: bytes) -> bytes:
    return hashlib.sha512(prefix + b"".join(parts)).digest()


def split(n: int) -> int:
    """The largest power of two below n (section 2.1.1)."""
    return 1 << (n - 1).bit_length() - 1


def naive_root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return h(b"\0", leaves[0])
    k = split(len(leaves))
    return h(b"\1", naive_root(leaves[:k]), naive_root(leaves[k:]))


def naive_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    if len(leaves) == 1:
        return ()
    k = split(len(leaves))
    if index < k:
        return (*naive_proof(leaves[:k], index), naive_root(leaves[k:]))
    return (*naive_proof(leaves[k:], index - k), naive_root(leaves[:k]))


def proven_root(size: int, index: int, leaf: bytes, path: Sequence[bytes]) -> bytes | None:
    """The root that a path leads to, from the top down; None for one that is too short or too long."""
    if size == 1:
        return None if path else h(b"\0", leaf)
    if not path:
        return None
    k = split(size)
    left = index < k
    below = proven_root(k if left else size - k, index if left else index - k, leaf, path[:-1])
    if below is None:
        return None
    return h(b"\1", below, path[-1]) if left else h(b"\1", path[-1], below)


def nodes(leaves: Sequence[bytes]) -> list[bytes]:
    """Every hash of the tree: what a liar could build a path of."""
    if len(leaves) == 1:
        return [naive_root(leaves)]
    k = split(len(leaves))
    return [naive_root(leaves), *nodes(leaves[:k]), *nodes(leaves[k:])]


@given(some_leaves)
def test_root_and_every_proof_are_the_references(leaves: list[bytes]) -> None:
    tree = merkle.Tree(leaves)
    assert (tree.size, tree.root) == (len(leaves), naive_root(leaves))
    assert merkle.Tree([h(b"\0", leaf) for leaf in leaves], hashed=True).root == tree.root
    for index, leaf in enumerate(leaves):
        path = tree.proof(index)
        assert path == naive_proof(leaves, index)
        assert len(path) == merkle.proof_length(tree.size, index)
        assert merkle.verify_proof(tree.root, tree.size, index, leaf, path)


@given(st.data())
def test_what_is_built_of_the_trees_own_hashes_passes_where_the_reference_says_so(data: st.DataObject) -> None:
    """And whatever passes under the root is one of its leaves: no inner node does, at any depth, size or index."""
    leaves = data.draw(st.lists(st.binary(max_size=3), min_size=1, max_size=9))
    own = nodes(leaves)
    leaf = data.draw(st.sampled_from(leaves) | st.tuples(*[st.sampled_from(own)] * 2).map(b"".join))
    size = data.draw(st.integers(1, 12))
    index = data.draw(st.integers(0, size - 1))
    path = data.draw(st.lists(st.sampled_from(own), max_size=5))
    passes = merkle.verify_proof(own[0], size, index, leaf, path)
    assert passes == (proven_root(size, index, leaf, path) == own[0])
    assert not passes or leaf in leaves


@given(some_leaves, st.data())
def test_a_true_proof_with_one_thing_changed_is_judged_as_the_reference_does(
    leaves: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, leaf, path = naive_root(leaves), leaves[index], list(naive_proof(leaves, index))
    size = len(leaves)
    match data.draw(st.sampled_from(["size", "index", "leaf", "swap", "drop", "double", "bit"])):
        case "size":
            size = data.draw(st.integers(index + 1, 2 * size + 2))
        case "index":
            index = data.draw(st.integers(0, size - 1))
        case "leaf":
            leaf = data.draw(st.sampled_from(leaves))
        case "swap":
            path.reverse()
        case "drop":
            path = path[1:]
        case "double":
            path = [*path, *path[:1]]
        case "bit":
            path = [bytes([path[0][0] ^ 1]) + path[0][1:], *path[1:]] if path else [root]
    assert merkle.verify_proof(root, size, index, leaf, path) == (proven_root(size, index, leaf, path) == root)


def test_a_root_does_not_say_how_many_leaves_it_has_so_evidence_does() -> None:
    """The first of three leaves has the proof that it would have among four: REPORT_DATA is over size and root."""
    leaves = [b"a", b"b", b"c"]
    root, path = merkle.root(leaves), merkle.proof(leaves, 0)
    assert merkle.verify_proof(root, 3, 0, b"a", path)
    assert merkle.verify_proof(root, 4, 0, b"a", path)
    scope = Scope("rp", "1f6f4a12-7d0e-4a4e-9d0e-2f9a3f1b5c7d")
    assert challenge_batch(scope, 3, root) != challenge_batch(scope, 4, root)


def test_the_largest_tree_has_the_longest_proof() -> None:
    assert merkle.proof_length(1 << merkle.MAX_DEPTH, 0) == merkle.MAX_DEPTH
    with pytest.raises(FormatError):
        merkle.proof_length((1 << merkle.MAX_DEPTH) + 1, 0)
    path = [bytes(64)] * merkle.MAX_DEPTH
    root = h(b"\0", b"x")
    for sibling in path:
        root = h(b"\1", root, sibling)
    assert merkle.verify_proof(root, 1 << merkle.MAX_DEPTH, 0, b"x", path)
    assert not merkle.verify_proof(root, (1 << merkle.MAX_DEPTH) + 1, 0, b"x", path)


@given(a=st.tuples(*[st.binary(min_size=16, max_size=64)] * 2), b=st.tuples(*[st.binary(min_size=16, max_size=64)] * 2))
def test_two_challenges_never_have_one_leaf(a: tuple[bytes, bytes], b: tuple[bytes, bytes]) -> None:
    """Each field has its length before it: bytes can't move from one to the next."""

    def leaf(nonce: bytes, text: bytes) -> bytes:
        fields = bytes(32), nonce, bytes(64), text.hex(), "", bytes(32), bytes(64)
        return Leaf(*fields, {}).encode()

    assert (leaf(*a) == leaf(*b)) == (a == b)
