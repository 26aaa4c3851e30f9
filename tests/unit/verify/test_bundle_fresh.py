"""Fresh bundles: the challenge must stand in the tree that was quoted, at its place, with its payload."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.core.bundle import Payload
from agent.core.errors import BindingMismatch
from tests.support.bundles import NONCE, Signer
from tests.support.bundleverdicts import failed, signer, verify
from tests.support.simulator import pki_state

__all__ = ["pki_state", "signer"]


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": NONCE + b"!"},
        {"random": bytes(32)},
        {"caller": {"uid": 0}},
        {"claims_unverified": {}},
        {"index": 1},
        {"tree_size": 9},
        {"path": ()},
        {"root": bytes(64)},
    ],
)
def test_a_changed_challenge_is_not_in_the_tree(signer: Signer, changes: dict[str, Any]) -> None:
    bundle = signer.fresh_bundle()
    assert bundle.fresh is not None
    with pytest.raises(BindingMismatch) as caught:
        verify(signer, signer.sign(replace(bundle, fresh=replace(bundle.fresh, **changes))))
    assert failed(caught.value) == "challenge in the quoted tree"


def test_the_size_of_the_tree_is_quoted(signer: Signer) -> None:
    """Of 5 or of 6 leaves, the third has a proof of the same shape."""
    bundle = signer.fresh_bundle()
    assert bundle.fresh is not None
    assert (bundle.fresh.tree_size, bundle.fresh.index) == (5, 2)
    with pytest.raises(BindingMismatch) as caught:
        verify(signer, signer.sign(replace(bundle, fresh=replace(bundle.fresh, tree_size=6))))
    assert failed(caught.value) == "REPORT_DATA"


def test_another_payload_under_the_same_challenge_is_refused(signer: Signer) -> None:
    bundle = signer.fresh_bundle()
    for changes in ({"payload": Payload.of(b"other")}, {"context": "other"}, {"audience": "other"}):
        with pytest.raises(BindingMismatch):
            verify(signer, signer.sign(replace(bundle, **changes)), payload=None)


def test_a_tree_that_was_not_quoted_is_refused(signer: Signer) -> None:
    old, new = signer.fresh_bundle(), signer.fresh_bundle(nonce=b"0" * 16)
    moved = replace(new, attachments=replace(new.attachments, blob=old.attachments.blob))
    with pytest.raises(BindingMismatch) as caught:
        verify(signer, signer.sign(moved))
    assert failed(caught.value) == "REPORT_DATA"
