"""Our token: its form, both ways, and what passes for it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.core.errors import HeaderRefused
from agent.disk import token
from agent.disk.token import Binding
from tests.support.luks import sample_header, token_document


@pytest.mark.parametrize(
    "binding",
    [Binding(5, "policy-a", 1), Binding(0, "p", 2**32, "bound", bytes(range(32)))],
    ids=["pending", "bound"],
)
def test_round_trip(binding: Binding) -> None:
    assert token.parse(binding.document(), 0) == binding


def test_found_among_others() -> None:
    def change(document: dict[str, Any]) -> None:
        document["tokens"] = {"2": {"type": "clevis", "keyslots": ["0"]}, "9": token_document()}

    assert token.find(sample_header(change).metadata) == (9, Binding(1, "policy-a", 1, "bound", bytes(32)))


def test_none_is_none() -> None:
    assert token.find(sample_header(lambda document: document.update(tokens={})).metadata) is None


def test_two_of_ours_are_refused() -> None:
    with pytest.raises(HeaderRefused, match="tokens 0, 5 are all of type tee-agent"):
        token.find(sample_header(lambda document: document["tokens"].update({"5": token_document()})).metadata)


def test_a_token_whose_slot_was_wiped_is_stale_not_malformed() -> None:
    assert token.parse(token_document(keyslots=[]), 0).slot == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": "1"},
        {"state": "ready"},
        {"state": "pending"},
        {"state": "pending", "mac": ""},
        {"mac": ""},
        {"mac": "00" * 31},
        {"mac": "0G" * 32},
        {"mac": "AA" * 32},
        {"slot": 32},
        {"slot": -1},
        {"slot": "1"},
        {"slot": 2},
        {"key_id": ""},
        {"key_id": "a b"},
        {"key_id": "../x"},
        {"key_id": "x" * 129},
        {"key_id": 1},
        {"generation": 0},
        {"generation": True},
        {"generation": 2**32 + 1},
        {"keyslots": ["0", "1"]},
        {"keyslots": ["0"]},
        {"url": "https://tas.example"},
    ],
    ids=str,
)
def test_malformed_tokens_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(HeaderRefused) as caught:
        token.parse(token_document(**changes), 4)
    assert "token 4" in caught.value.message
    assert caught.value.code == "disk.header.token"


@pytest.mark.parametrize("missing", ["mac", "slot", "state", "version", "key_id", "generation"])
def test_missing_fields_are_refused(missing: str) -> None:
    document = token_document()
    del document[missing]
    with pytest.raises(HeaderRefused, match=missing):
        token.parse(document, 0)


def test_generations_count_and_stay_in_range() -> None:
    assert token.next_generation(None) == 1
    assert token.next_generation((0, Binding(1, "p", 1))) == 2
    assert token.next_generation((0, Binding(1, "p", 2**32))) == 1
