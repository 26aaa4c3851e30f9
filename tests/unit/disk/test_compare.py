"""An edit leaves exactly what was intended, or it is a tamper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.core.errors import HeaderTampered
from agent.disk import compare
from agent.disk.header import Header
from tests.support.luks import Change, at, b64, keyslot, sample_header, token_document


def later(header: Header, by: int = 1) -> Header:
    return replace(header, binary=replace(header.binary, sequence=header.binary.sequence + by))


def edited(*changes: Change) -> Header:
    def change(document: dict[str, Any]) -> None:
        for one in changes:
            one(document)

    return later(sample_header(change))


def add(document: dict[str, Any]) -> None:
    document["keyslots"]["2"] = keyslot(2)
    document["digests"]["0"]["keyslots"] = ["2", "0", "1"]


def kill(document: dict[str, Any]) -> None:
    del document["keyslots"]["1"]
    document["digests"]["0"]["keyslots"] = ["0"]
    document["tokens"]["0"]["keyslots"] = []


def put(document: dict[str, Any]) -> None:
    document["tokens"]["4"] = token_document(slot=3)


def remove(document: dict[str, Any]) -> None:
    del document["tokens"]["0"]


EDITS: dict[str, tuple[Change, dict[str, Any]]] = {
    "add": (add, {"added": 2}),
    "kill": (kill, {"killed": 1}),
    "put": (put, {"tokens": {4: token_document(slot=3)}}),
    "remove": (remove, {"tokens": {0: None}}),
}


@pytest.mark.parametrize(("change", "intended"), EDITS.values(), ids=EDITS)
def test_the_intended_edit_passes(change: Change, intended: dict[str, Any]) -> None:
    compare.verify(sample_header(), edited(change), **intended)


@pytest.mark.parametrize(("change", "intended"), EDITS.values(), ids=EDITS)
def test_no_edit_is_not_the_intended_one(change: Change, intended: dict[str, Any]) -> None:
    with pytest.raises(HeaderTampered):
        compare.verify(sample_header(), later(sample_header()), **intended)


def foreign_slot(document: dict[str, Any]) -> None:
    document["keyslots"]["9"] = keyslot(9)
    document["digests"]["0"]["keyslots"].append("9")


EXTRAS: dict[str, Change] = {
    "segments": at("segments", "0", "offset", to="16781312"),
    "digests": at("digests", "0", "salt", to=b64(b"\1" * 32)),
    "config": at("config", "keyslots_size", to="16740352"),
    "keyslots": at("keyslots", "0", "priority", to=2),
    "tokens": at("tokens", "7", to={"type": "x", "keyslots": []}),
    "digests, keyslots": foreign_slot,
}


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize(("change", "intended"), EDITS.values(), ids=EDITS)
def test_anything_beside_the_edit_is_named(change: Change, intended: dict[str, Any], extra: str) -> None:
    with pytest.raises(HeaderTampered, match=f"{extra} changed"):
        compare.verify(sample_header(), edited(change, EXTRAS[extra]), **intended)


OTHER_KINDS: dict[str, Change] = {
    "iterations": at("keyslots", "2", "kdf", "iterations", to=2000),
    "hash": at("keyslots", "2", "kdf", "hash", to="sha512"),
    "kdf": at(
        "keyslots", "2", "kdf", to={"type": "argon2id", "time": 4, "memory": 1024, "cpus": 1, "salt": b64(bytes(32))}
    ),
    "area key": at("keyslots", "2", "area", "key_size", to=32),
    "af hash": at("keyslots", "2", "af", "hash", to="sha512"),
}


@pytest.mark.parametrize("other", OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_a_new_slot_has_our_parameters(other: Change) -> None:
    with pytest.raises(HeaderTampered, match="other parameters"):
        compare.verify(sample_header(), edited(add, other), added=2)


def test_a_slot_of_another_key_is_not_ours() -> None:
    def unbound(document: dict[str, Any]) -> None:
        document["keyslots"]["2"] = keyslot(2)
        document["digests"]["1"] = {**document["digests"]["0"], "keyslots": ["2"], "segments": []}

    assert not compare.is_own_kind(sample_header(unbound), 2)
    assert compare.is_own_kind(sample_header(), 1)
    assert not compare.is_own_kind(sample_header(), 5)


@pytest.mark.parametrize("by", [0, -1])
def test_the_sequence_number_grows(by: int) -> None:
    with pytest.raises(HeaderTampered, match="sequence number"):
        compare.verify(sample_header(), later(sample_header(add), by), added=2)


def test_the_fixed_part_stays() -> None:
    after = edited(add)
    with pytest.raises(HeaderTampered, match="fixed part"):
        compare.verify(
            sample_header(), replace(after, binary=replace(after.binary, label=b"x".ljust(48, b"\0"))), added=2
        )
