"""Challenges shared out over few quotes: who is in which tree, who answers, who is left out."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from agent.core.errors import DeadlineExceeded, FirmwareError, ServerError
from agent.daemon import batch
from agent.daemon.asked import Asked, whole
from agent.daemon.holders import OwnHolder
from tests.support.batches import Batches, challenge, check, place
from tests.support.waiting import until


def test_arrivals_during_a_quote_share_the_next() -> None:
    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        first = world.ask(0)
        await until(lambda: world.trees == [1])
        rest = [world.ask(number) for number in range(1, 20)]
        await until(lambda: world.waiting == 20)
        world.quotes.gate.set()
        assert place((await first)[0], 0) == (1, 0)
        assert [place((await task)[0], number) for number, task in enumerate(rest, 1)] == [
            (19, index) for index in range(19)
        ]
        assert (world.waiting, world.batcher.batches) == (0, 2)

    Batches().run(body)


def test_the_challenges_of_one_request_stand_together() -> None:
    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        first = world.ask(0)
        await until(lambda: world.trees == [1])
        groups = [range(1, 9), range(9, 17), range(17, 25)]
        tasks = [world.ask(*group, uid=uid) for uid, group in enumerate(groups)]
        await until(lambda: world.waiting == 25)
        world.quotes.gate.set()
        await first
        found = [
            [place(data, number) for data, number in zip(await task, group, strict=True)]
            for task, group in zip(tasks, groups, strict=True)
        ]
        assert found == [
            [(16, index) for index in range(8)],
            [(16, index) for index in range(8, 16)],
            [(8, index) for index in range(8)],
        ]
        assert world.trees == [1, 16, 8]

    Batches(most=20).run(body)


def test_every_leaf_has_randomness_of_its_own() -> None:
    async def body(world: Batches) -> None:
        answers = [*await world.ask(*[1] * 8), *await world.ask(1)]
        randoms = Counter(fresh.random for data in answers if (fresh := check(data, 1).fresh))
        assert len(randoms) == 9
        assert all(len(random) == 32 for random in randoms)

    Batches().run(body)


def test_budgets_per_user_and_over_all() -> None:
    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        tasks = [world.ask(*range(70), uid=uid) for uid in (1, 2)]
        await until(lambda: world.waiting == 140)
        for uid in (1, 3):
            with pytest.raises(ServerError) as caught:
                await world.ask(*range(65), uid=uid)
            assert caught.value.code == "server.budget"
            assert caught.value.retry_after >= 1
        sure = world.ask(*range(64), uid=3)
        await until(lambda: world.waiting == 204)
        with pytest.raises(ServerError):
            await world.ask(99, uid=3)
        tasks[1].cancel()
        await until(lambda: world.waiting == 134)
        more = world.ask(99, uid=3)
        await until(lambda: world.waiting == 135)
        world.quotes.gate.set()
        for task, count in ((tasks[0], 70), (sure, 64)):
            for number, data in enumerate(await task):
                check(data, number)
            assert len(task.result()) == count
        check((await more)[0], 99)
        assert world.waiting == 0

    Batches(most=70).run(body)


def test_claims_count_as_memory() -> None:
    async def body(world: Batches) -> None:
        with pytest.raises(ServerError, match="too many challenges"):
            asked = [replace(challenge(0), claims={"text": "x" * 4000})] * 5000
            await world.batcher.answer(Asked(OwnHolder(world.ring), asked, 1, whole))

    Batches(most=10_000).run(body)


def test_who_gave_up_is_in_no_tree() -> None:
    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        first = world.ask(0)
        await until(lambda: world.trees == [1])
        leaving, staying = world.ask(1, 2, 3), world.ask(4)
        await until(lambda: world.waiting == 5)
        leaving.cancel()
        await until(lambda: world.waiting == 2)
        world.quotes.gate.set()
        await first
        assert place((await staying)[0], 4) == (1, 0)
        assert world.trees == [1, 1]

    Batches().run(body)


def test_who_leaves_during_the_quote_costs_the_others_nothing() -> None:
    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        leaving, staying = world.ask(1, 2), world.ask(3)
        await until(lambda: world.trees == [3])
        leaving.cancel()
        await until(lambda: world.waiting == 1)
        world.quotes.gate.set()
        assert place((await staying)[0], 3) == (3, 2)
        assert world.waiting == 0

    Batches().run(body)


def test_when_all_have_left_no_quote_is_asked_for() -> None:
    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        first = world.ask(0)
        await until(lambda: world.trees == [1])
        leaving = world.ask(1)
        await until(lambda: world.waiting == 2)
        leaving.cancel()
        await until(lambda: world.waiting == 1)
        world.quotes.gate.set()
        await first
        check((await world.ask(2))[0], 2)
        assert world.trees == [1, 1]
        assert world.budget.quotes == 3

    Batches().run(body)


def test_a_failed_quote_fails_its_batch_only() -> None:
    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        failing = [world.ask(0), world.ask(1)]
        await until(lambda: world.trees == [2])
        later = world.ask(2)
        await until(lambda: world.waiting == 3)
        world.quotes.failures = [FirmwareError("no", code="firmware.io")]
        world.quotes.gate.set()
        for task in failing:
            with pytest.raises(FirmwareError, match="no"):
                await task
        check((await later)[0], 2)
        assert world.batcher.batches == 1

    Batches().run(body)


def test_a_quote_that_never_comes_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PATIENCE_SECONDS", 0.01)

    async def body(world: Batches) -> None:
        world.quotes.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await world.ask(0)
        assert world.waiting == 0
        world.quotes.gate.set()

    Batches(quote_seconds=0.001).run(body)


def test_stopping_answers_what_a_quote_is_made_for_and_refuses_the_rest() -> None:
    async def main() -> None:
        world = Batches()
        ring, serving = asyncio.create_task(world.ring.run(_fail)), asyncio.create_task(world.batcher.run())
        await world.ring.current()
        world.quotes.gate.clear()
        first = world.ask(0)
        await until(lambda: world.trees == [1])
        second = world.ask(1)
        await until(lambda: world.waiting == 2)
        serving.cancel()
        for task in (second, world.ask(2)):
            with pytest.raises(ServerError, match="stops") as caught:
                await task
            assert caught.value.retry_after
        world.quotes.gate.set()
        check((await first)[0], 0)
        assert world.trees == [1]
        ring.cancel()

    asyncio.run(main())


def _fail(_: str, error: Exception) -> None:
    raise AssertionError(error)


def test_others_are_served_while_thousands_of_answers_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: with the smallest slices the loop goes round once for each answer."""
    monkeypatch.setattr(batch, "SLICE_SECONDS", 0.0)

    async def body(world: Batches) -> None:
        task, rounds = world.ask(*range(300)), 0
        while not task.done():
            await asyncio.sleep(0)
            rounds += world.batcher.batches
        assert rounds >= 300
        assert len(await task) == 300

    Batches(most=300).run(body)


def test_others_are_served_while_many_leaves_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "SLICE_SECONDS", 0.0)

    async def body(world: Batches) -> None:
        task, rounds = world.ask(*range(300)), 0
        while not world.trees:
            await asyncio.sleep(0)
            rounds += 1
        assert rounds >= 300
        assert len(await task) == 300

    Batches(most=300).run(body)
