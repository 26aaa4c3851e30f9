"""What waiting challenges hold in memory: counted as what it is, and gone with those who asked."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.core.challenge import MAX_OBJECT
from agent.daemon.asked import Asked, Challenge, whole
from agent.daemon.budget import LEAF_BYTES
from agent.daemon.freshapi import MAX_BYTES, MAX_CHALLENGES
from agent.daemon.holders import OwnHolder
from agent.daemon.waiting import Lines, Waiting
from tests.support.batches import Batches, challenge, check
from tests.support.waiting import until


class Form:
    """asked.whole, of which it can be seen whether anybody still has it."""

    def __call__(self, *args: Any) -> bytes:
        return whole(*args)


@pytest.mark.parametrize("leaves", ["while it is in line", "while its quote is made"])
def test_who_leaves_leaves_nothing_behind(leaves: str) -> None:
    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        first = world.ask(0)
        if leaves == "while it is in line":
            await until(lambda: world.trees == [1])
        form = Form()
        seen = weakref.ref(form)
        asked = Asked(OwnHolder(world.ring), [challenge(number) for number in range(5)], 7, form)
        del form
        leaving = asyncio.ensure_future(world.batcher.answer(asked))
        staying = world.ask(9, uid=7)
        await until(lambda: world.waiting == 7)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        del leaving, asked
        if leaves == "while its quote is made":
            world.quotes.gate.set()
            await asyncio.gather(first, staying)
        await asyncio.sleep(0)  # the loop itself has what it is calling
        gc.collect()
        assert seen() is None
        world.quotes.gate.set()
        check((await first)[0], 0)
        check((await staying)[0], 9)

    Batches().run(body)


def test_a_line_counts_those_who_are_in_it() -> None:
    """Else a tree is called full for who has left, or the batcher looks for more without end."""

    async def body(world: Batches) -> None:
        key, lines = await world.ring.current(), Lines()
        items = []
        for number, uid in enumerate((1, 1, 2)):
            asked = Asked(OwnHolder(world.ring), [challenge(number)] * 3, uid, whole)
            items.append(Waiting(asked, key, b"", [b""] * 3, asyncio.get_running_loop().create_future()))
            lines.add(items[-1])
        for item, left in ((items[0], 6), (items[0], 6), (items[2], 3)):
            lines.remove(item)
            assert lines.leaves == left
        assert lines.closed(10, lambda _: True) == [items[1]]
        lines.remove(items[1])
        assert lines.leaves == 0

    Batches().run(body)


def filled(unit: Callable[[int], str], before: str, after: str) -> dict[str, Any]:
    """Claims of as many units as may be."""
    text = before
    number = 0
    while len(text) + len(unit(number)) + len(after) <= MAX_OBJECT:
        text, number = text + unit(number), number + 1
    found: dict[str, Any] = json.loads(text.rstrip(",") + after)
    return found


CLAIMS = {
    "none": {},
    "text": {"x": "y" * 4000},
    "empty lists": filled(lambda _: "[],", '{"x":[', "]}"),
    "empty objects": filled(lambda _: "{},", '{"x":[', "]}"),
    "members": filled(lambda number: f'"{number:x}":{{}},', "{", "}"),
    "numbers": filled(lambda number: f"{number + 257},", '{"x":[', "]}"),
    "texts": filled(lambda number: f'"{chr(0x4E00 + number)}",', '{"x":[', "]}"),
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_claims_weigh_what_they_take(kind: str) -> None:
    text = json.dumps(CLAIMS[kind])
    count = 50
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        held = [replace(challenge(number), claims=json.loads(text)) for number in range(count)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    counted = sum(each.size for each in held)
    assert (after - before) / 1.5 <= counted <= 1.2 * (after - before) + 600 * count


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_request_of_the_largest_size_is_never_over_what_a_user_may_hold(kind: str) -> None:
    """Otherwise it would be told to come again later, for ever."""
    most = min(MAX_CHALLENGES, MAX_BYTES // max(1, len(json.dumps(CLAIMS[kind], separators=(",", ":")))))
    one: Challenge = replace(challenge(0), claims=CLAIMS[kind])
    assert one.size * most <= LEAF_BYTES.each
