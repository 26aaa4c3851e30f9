"""Whoever remembers private keys is told when one is no more: destroyed, or ended."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agent.core.errors import UsageError
from tests.support.named import HOUR, World, run


def test_told_of_what_is_destroyed_and_what_ends() -> None:
    async def body(world: World) -> None:
        told: list[int] = []
        world.keys.on_dropped(lambda: told.append(world.keys.count))
        await world.create("kept")
        await world.create("short", lifetime=timedelta(minutes=1))
        await world.keys.rotate("uid-1", "kept", timedelta(minutes=2))
        await world.create("gone")
        assert told == []
        await world.keys.destroy("uid-1", "gone")
        assert told == [3], "it is gone when it is told"
        world.at += timedelta(minutes=1)
        assert world.keys.count == 2
        assert len(told) == 2
        world.at += timedelta(minutes=2)
        assert world.keys.count == 1, "the older generation's overlap is over"
        assert len(told) == 3

    run(body)


def test_found_is_just_this_key_with_evidence_in_force() -> None:
    async def body(world: World) -> None:
        first = await world.create("a")
        assert world.keys.finds(first, 0)
        assert world.keys.finds(first, 1)
        second = await world.keys.rotate("uid-1", "a", 10 * HOUR)
        assert not world.keys.finds(first, 0)
        first = world.keys.find("uid-1", "a", 1)
        assert world.keys.finds(first, 1)
        assert world.keys.finds(second, 0)
        world.at = second.statement.expires
        assert not world.keys.finds(second, 0), "its statement is over, and nothing else is there"
        renewed = await world.keys.current(second)
        assert world.keys.finds(renewed, 0)
        assert not world.keys.finds(second, 0)
        world.at = second.statement.created - HOUR
        assert not world.keys.finds(renewed, 0), "the calendar was set back"
        await world.keys.destroy("uid-1", "a")
        with pytest.raises(UsageError, match="no key"):
            world.keys.finds(renewed, 0)

    run(body)
