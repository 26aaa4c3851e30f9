"""Attachments by digest: what is kept, for how long, and how much of it there may be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core import attachdoc
from agent.core.bundle_parts import Attachments
from agent.core.model import Endorsements
from agent.daemon import attachments
from agent.daemon.attachments import AGENT, Kept
from tests.unit.core.test_bundle import ATTACHED

SIZE = sum(map(len, ATTACHED.members.values()))


def numbered(number: int, vendor: Endorsements = ATTACHED.endorsements) -> Attachments:
    return replace(ATTACHED, blob=b"report %6d" % number, endorsements=vendor)


def kept_of(*current: tuple[str, Attachments]) -> Kept:
    return Kept(lambda: current)


def test_what_was_named_is_found_byte_for_byte() -> None:
    kept = kept_of()
    for key in (AGENT, "uid-1/a"):
        one = numbered(len(key))
        kept.keep(one, key)
        found = kept.find(one.digest)
        assert found is not None
        assert (found.key, found.document) == (key, attachdoc.build(one))
        assert attachdoc.decode(found.document) == one
    assert kept.find(bytes(64)) is None


def test_what_a_key_has_now_is_found_without_being_named() -> None:
    kept = kept_of((AGENT, numbered(1)), ("uid-1/a", numbered(2)))
    found = kept.find(numbered(2).digest)
    assert found is not None
    assert (found.key, found.document) == ("uid-1/a", attachdoc.build(numbered(2)))
    assert len(kept) == 0


def test_the_oldest_of_a_key_goes_and_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "MAX_EACH", 3)
    kept = kept_of()
    kept.keep(numbered(100), "uid-1/a")
    for number in range(4):
        kept.keep(numbered(number))
    assert kept.find(numbered(0).digest) is None
    assert all(kept.find(numbered(number).digest) for number in (1, 2, 3, 100))


def test_what_is_in_use_is_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "MAX_EACH", 3)
    kept = kept_of()
    for number in (0, 1, 2, 0, 3):
        kept.keep(numbered(number))
    assert kept.find(numbered(0).digest)
    assert kept.find(numbered(1).digest) is None
    assert len(kept) == 3


def test_the_key_with_the_most_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "MAX_ALL", 5)
    kept = kept_of()
    kept.keep(numbered(100), "uid-1/quiet")
    for number in range(50):
        kept.keep(numbered(number), "uid-2/busy")
    assert len(kept) == 5
    assert kept.find(numbered(100).digest)
    assert kept.find(numbered(49).digest)
    assert kept.find(numbered(45).digest) is None


def test_many_keys_are_no_larger_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "MAX_ALL", 20)
    kept = kept_of()
    for number in range(10):
        kept.keep(numbered(number))
    for number in range(100, 200):
        kept.keep(numbered(number), f"uid-2/key-{number % 50}")
    assert all(kept.find(numbered(number).digest) for number in range(10))
    assert kept.find(numbered(199).digest)
    assert len(kept) == 20


def test_memory_is_bounded_and_what_is_common_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_of()
    kept.keep(numbered(0))
    one = kept.size
    kept.keep(numbered(1))
    assert kept.size - one == len(numbered(1).members["evidence"])
    monkeypatch.setattr(attachments, "MAX_BYTES", 10 * SIZE)
    for number in range(2, 60):
        kept.keep(numbered(number, Endorsements((b"certificate %d" % number * 30,))))
        assert kept.size <= 10 * SIZE
    assert kept.find(numbered(59, Endorsements((b"certificate 59" * 30,))).digest)


def test_nothing_is_counted_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "MAX_ALL", 1)
    kept = kept_of()
    for number in range(5):
        kept.keep(numbered(number))
    assert kept.size == sum(map(len, numbered(4).members.values()))
