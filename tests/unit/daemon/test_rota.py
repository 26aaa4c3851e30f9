"""Turns: alone at once, many in a queue of their user's, users one after the other, and others heard in between."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest

from agent.daemon import rota
from agent.daemon.rota import Rota

A, B, C = 1, 2, 3


class Connection:
    """One that writes down when it was answered."""

    def __init__(self, uid: int, answered: list[int], then: Callable[[], None] = lambda: None) -> None:
        self.uid = uid
        self._answered = answered
        self._then = then

    def turn(self) -> None:
        self._answered.append(self.uid)
        self._then()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine: what comes in one test comes together, and every round answers one request."""
    monkeypatch.setattr(rota, "TOGETHER_SECONDS", 3600.0)
    monkeypatch.setattr(rota, "ROUND_SECONDS", 0.0)


async def rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_one_connection_is_answered_at_once_every_time() -> None:
    async def main() -> None:
        answered: list[int] = []
        turns, one = Rota(), Connection(A, answered)
        for expected in range(1, 100):
            turns.comes(one)
            assert len(answered) == expected

    asyncio.run(main())


def test_who_left_is_not_kept_and_its_user_is_no_better_off_for_it() -> None:
    async def main() -> None:
        answered: list[int] = []
        turns, first = Rota(), Connection(A, answered)
        turns.comes(first)
        turns.gone(first)
        left = weakref.ref(first)
        del first
        gc.collect()
        assert left() is None
        turns.comes(Connection(A, answered))
        assert answered == [A]
        await rounds(2)
        assert answered == [A, A]

    asyncio.run(main())


def test_a_user_s_others_wait_and_another_user_does_not() -> None:
    async def main() -> None:
        answered: list[int] = []
        turns = Rota()
        for _ in range(50):
            turns.comes(Connection(A, answered))
        assert answered == [A]
        turns.comes(Connection(B, answered))
        assert answered == [A, B]
        await rounds(3)
        turns.comes(Connection(C, answered))
        assert answered[-1] == C
        assert len(answered) < 10
        await rounds(60)
        assert answered.count(A) == 50

    asyncio.run(main())


def test_users_with_many_take_turns() -> None:
    async def main() -> None:
        answered: list[int] = []
        turns = Rota()
        for uid in (A, B, C):
            for _ in range(11):
                turns.comes(Connection(uid, answered))
        assert answered == [A, B, C]
        await rounds(40)
        assert answered == [A, B, C] * 11

    asyncio.run(main())


def test_who_asks_again_from_its_turn_stands_behind_the_others() -> None:
    async def main() -> None:
        answered: list[int] = []
        turns = Rota()
        again = Connection(B, answered, lambda: turns.comes(Connection(B, answered)))
        turns.comes(Connection(A, answered))
        turns.comes(Connection(A, answered))
        turns.comes(again)
        assert answered == [A, B]
        await rounds(10)
        assert sorted(answered) == [A, A, B, B]

    asyncio.run(main())


def test_what_is_known_of_users_is_bounded() -> None:
    async def main() -> None:
        answered: list[int] = []
        turns = Rota()
        for uid in range(3 * rota.MAX_KNOWN):
            turns.comes(Connection(uid, answered))
        assert answered == list(range(3 * rota.MAX_KNOWN))
        assert len(turns._last) <= rota.MAX_KNOWN

    asyncio.run(main())
