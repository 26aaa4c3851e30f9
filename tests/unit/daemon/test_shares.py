"""Fair shares of trees and of answers: whoever floods, others get theirs. Counted in quotes, stepped one by one."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from agent.core.errors import ServerError
from agent.daemon import batch
from tests.support.batches import Batches, check, place
from tests.support.waiting import until


class Steps:
    """A gate of FakeQuotes that lets one quote after the other pass."""

    def __init__(self, world: Batches) -> None:
        self._world = world
        self._passes = threading.Semaphore(0)

    def wait(self, seconds: float) -> bool:
        return self._passes.acquire(timeout=seconds)

    async def step(self) -> None:
        """One quote comes, and the next has been asked for."""
        asked = len(self._world.quotes.asked)
        self._passes.release()
        await until(lambda: len(self._world.quotes.asked) > asked)

    def open(self) -> None:
        self._passes.release(100_000)


def test_a_tree_takes_from_each_user_in_turn() -> None:
    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        first = world.ask(0)
        await until(lambda: world.trees == [1])
        greedy = [world.ask(*range(number, number + 5), uid=1) for number in range(0, 15, 5)]
        await until(lambda: world.waiting == 16)
        modest = [world.ask(20 + uid, uid=uid) for uid in (2, 3)]
        await until(lambda: world.waiting == 18)
        world.quotes.gate.set()
        await asyncio.gather(first, *greedy, *modest)
        sizes = [place(task.result()[0], number)[0] for task, number in zip(modest, (22, 23), strict=True)]
        assert sizes == [12, 12]
        assert world.trees == [1, 12, 5]

    Batches(most=15).run(body)


def test_whose_request_had_no_room_is_first_in_the_next_tree() -> None:
    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        first = world.ask(0)
        await until(lambda: world.trees == [1])
        small = [world.ask(number, uid=uid) for number, uid in enumerate([1, 1, 1, 2, 2, 2], 10)]
        large = world.ask(*range(20, 28), uid=3)
        await until(lambda: world.waiting == 15)
        world.quotes.gate.set()
        await first
        sizes = [place((await task)[0], number)[0] for number, task in enumerate(small, 10)]
        assert (sizes, [place(data, 20 + at)[0] for at, data in enumerate(await large)]) == ([6] * 6, [8] * 8)
        world.quotes.gate.clear()
        first = world.ask(0)
        await until(lambda: len(world.trees) == 4)
        later = [world.ask(*range(30, 36), uid=1), world.ask(*range(40, 44), uid=2)]
        await until(lambda: world.waiting == 11)
        passed = world.ask(*range(50, 58), uid=3)
        await until(lambda: world.waiting == 19)
        more = [world.ask(number, uid=2) for number in (60, 61)]
        await until(lambda: world.waiting == 21)
        world.quotes.gate.set()
        await asyncio.gather(first, *later, passed, *more)
        # The smallest first; users 1 and 3 had no room there, and come before anybody else in the next ones.
        assert world.trees[4:] == [6, 6, 8]

    Batches(most=10).run(body)


def test_a_request_that_had_no_room_is_not_passed_over_again_for_smaller_ones() -> None:
    async def body(world: Batches) -> None:
        steps = world.quotes.gate = Steps(world)
        tasks = [world.ask(0)]
        await until(lambda: world.trees == [1])
        tasks += [world.ask(number, uid=1) for number in range(10, 13)]
        large = world.ask(*range(20, 28), uid=3)
        await until(lambda: world.waiting == 12)
        await steps.step()
        assert world.trees == [1, 3]
        tasks += [world.ask(number, uid=1) for number in range(13, 19)]
        await until(lambda: world.waiting == 17)
        await steps.step()
        assert world.trees == [1, 3, 10]
        steps.open()
        assert place((await large)[0], 20)[0] == 10
        await asyncio.gather(*tasks)
        assert world.trees == [1, 3, 10, 4]

    Batches(most=10).run(body)


def test_whose_request_had_no_room_comes_first_with_that_one_only() -> None:
    """All of a user's line would fill the tree, and others who ask for little would wait for another."""

    async def body(world: Batches) -> None:
        steps = world.quotes.gate = Steps(world)
        tasks = [world.ask(0)]
        await until(lambda: world.trees == [1])
        tasks += [world.ask(10 + uid, uid=uid) for uid in range(11, 19)]
        await until(lambda: world.waiting == 9)
        tasks += [world.ask(*numbers, uid=1) for numbers in (range(40, 44), range(50, 54), range(60, 62))]
        await until(lambda: world.waiting == 19)
        await steps.step()
        assert world.trees == [1, 8]
        modest = world.ask(2, uid=2)
        await until(lambda: world.waiting == 19)
        steps.open()
        assert place((await modest)[0], 2)[0] == 9
        await asyncio.gather(*tasks)
        assert world.trees == [1, 8, 9, 2]

    Batches(most=10).run(body)


def test_two_users_who_ask_for_more_than_there_is_get_the_same() -> None:
    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        first = world.ask(0)
        await until(lambda: world.trees == [1])
        tasks = {uid: [world.ask(number, uid=uid) for number in range(10)] for uid in (1, 2)}
        await until(lambda: world.waiting == 21)
        world.quotes.gate.set()
        await first
        roots = {uid: [root(await task, number) for number, task in enumerate(line)] for uid, line in tasks.items()}
        assert sorted(Counter(roots[1]).values()) == sorted(Counter(roots[2]).values()) == [5, 5]

    Batches(most=10).run(body)


def root(answers: Sequence[bytes], number: int) -> bytes:
    fresh = check(answers[0], number).fresh
    assert fresh
    return fresh.root


def test_answers_are_written_to_each_user_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quote of another's challenge comes while hundreds of answers of the one before are still to be written."""
    monkeypatch.setattr(batch, "SLICE_SECONDS", 0.0)

    async def body(world: Batches) -> None:
        steps = world.quotes.gate = Steps(world)
        first = world.ask(0)
        await until(lambda: world.trees == [1])
        greedy = [world.ask(*range(number, number + 20), uid=1) for number in range(100, 700, 20)]
        await until(lambda: world.waiting == 601)
        await steps.step()
        modest = world.ask(1, uid=2)
        await until(lambda: world.waiting == 601)
        steps.open()
        check((await modest)[0], 1)
        assert sum(task.done() for task in greedy) < len(greedy)
        await asyncio.gather(first, *greedy)
        assert world.trees == [1, 600, 1]

    Batches(most=600).run(body)


async def flood(world: Batches) -> None:
    while True:
        try:
            await world.ask(*range(20), uid=1)
        except ServerError:
            await asyncio.sleep(0.001)


async def keys(world: Batches, number: int) -> None:
    for generation in range(1000):
        await world.key(f"k{number}-{generation}")


def test_who_floods_with_challenges_and_keys_delays_another_by_two_quotes_at_the_most() -> None:
    """Whatever quote is under way when the other comes: of a tree, or of a new key."""
    under_way = set()

    async def body(world: Batches) -> None:
        steps = world.quotes.gate = Steps(world)
        greedy = [asyncio.create_task(flood(world)) for _ in range(5)]
        greedy += [asyncio.create_task(keys(world, number)) for number in range(6)]
        await until(lambda: len(world.quotes.asked) > 1)
        for number in range(8):
            for _ in range(1 + number % 2):
                await steps.step()
            under_way.add(world.quotes.asked[-1][0])
            before, single = len(world.quotes.asked), world.ask(number, uid=2)
            await asyncio.sleep(0.001)
            while not single.done():
                await steps.step()
            fresh = check((await single)[0], number).fresh
            assert fresh
            # The one under way is counted by ``before`` already: it and one other come first.
            assert world.quotes.asked.index(("challenge_batch", fresh.tree_size, fresh.root)) - before <= 1
        steps.open()
        for task in greedy:
            task.cancel()
        await asyncio.gather(*greedy, return_exceptions=True)

    Batches(most=20).run(body)
    assert under_way == {"challenge_batch", "signing_key"}
