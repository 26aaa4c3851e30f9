"""Whose turn it is, who may wait, what a refusal says: counted in quotes, by a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from agent.core.errors import ServerError
from agent.daemon import budget
from agent.daemon.budget import KEYS, Budget, Turn, payer_of

ONE, TWO, THREE = map(payer_of, (1, 2, 3))


class Source:
    """Quotes of one second each, given one by one; ``made`` has what each was for."""

    def __init__(self, most: int = 100) -> None:
        self.at = 1000.0
        self.budget = Budget(most, lambda: self.at)
        self.made: list[str] = []
        self._gate = asyncio.Semaphore(0)

    async def quote(self, kind: Turn, payer: str = "", name: str = "", *, seconds: float = 1.0) -> None:
        async with self.budget.turn(kind, payer):
            await self._gate.acquire()
            self.at += seconds
            self.made.append(name or f"{kind.name} {payer}".strip())

    async def go(self, quotes: int) -> None:
        """So many quotes come."""
        until = len(self.made) + quotes
        for _ in range(quotes):
            self._gate.release()
        while len(self.made) < until:
            await settled()
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def with_source(body: Callable[[Source], Awaitable[None]], most: int = 100) -> None:
    async def main() -> None:
        await body(Source(most))

    asyncio.run(main())


async def line(*work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    """Tasks that came in this order."""
    tasks = []
    for each in work:
        tasks.append(asyncio.create_task(each))
        await settled()
    return tasks


def test_one_quote_at_a_time_and_the_agents_own_key_first() -> None:
    async def body(source: Source) -> None:
        await line(
            source.quote(Turn.TREE),
            source.quote(Turn.KEY, ONE),
            source.quote(Turn.RENEWAL, TWO),
            source.quote(Turn.TREE),
            source.quote(Turn.OWN),
        )
        assert source.made == []
        await source.go(5)
        assert source.made == ["TREE", "OWN", "RENEWAL uid-2", "TREE", "KEY uid-1"]
        assert source.budget.quotes == 5

    with_source(body)


def test_trees_and_keys_alternate_renewals_before_new_keys_and_new_keys_by_user() -> None:
    async def body(source: Source) -> None:
        await line(source.quote(Turn.KEY, ONE, "under way"))
        await line(*(source.quote(Turn.KEY, ONE, f"one {number}") for number in range(3)))
        await line(source.quote(Turn.KEY, TWO, "two"), *(source.quote(Turn.TREE) for _ in range(4)))
        await line(source.quote(Turn.RENEWAL, TWO, "renewal"))
        await source.go(10)
        assert source.made == [
            *("under way", "TREE", "renewal", "TREE", "one 0", "TREE", "two", "TREE", "one 1", "one 2"),
        ]

    with_source(body)


def test_without_keys_trees_follow_one_another() -> None:
    async def body(source: Source) -> None:
        await line(*(source.quote(Turn.TREE) for _ in range(3)))
        await source.go(3)
        assert source.made == ["TREE"] * 3

    with_source(body)


def test_who_leaves_the_line_does_not_hold_it_up() -> None:
    async def body(source: Source) -> None:
        first, leaving, _ = await line(
            source.quote(Turn.TREE, name="first"), source.quote(Turn.KEY, ONE), source.quote(Turn.KEY, TWO, "last")
        )
        leaving.cancel()
        await settled()
        await source.go(2)
        assert source.made == ["first", "last"]
        assert first.done()

    with_source(body)


def test_a_turn_given_to_who_leaves_in_that_moment_goes_on() -> None:
    async def body(source: Source) -> None:
        async with source.budget.turn(Turn.TREE):
            leaving, _ = await line(source.quote(Turn.KEY, ONE), source.quote(Turn.KEY, TWO, "last"))
        leaving.cancel()  # its turn has been given, and it has not run since
        await settled()
        await source.go(1)
        assert source.made == ["last"]

    with_source(body)


def test_a_turn_that_fails_is_passed_on_and_counts_as_no_quote() -> None:
    async def body(source: Source) -> None:
        async def failing() -> None:
            async with source.budget.turn(Turn.TREE):
                raise ServerError("no quote")

        async def needless() -> None:
            async with source.budget.turn(Turn.TREE) as turn:
                turn.quoted = False

        failed, _, _ = await line(failing(), needless(), source.quote(Turn.KEY, ONE))
        assert isinstance(failed.exception(), ServerError)
        await source.go(1)
        assert source.budget.quotes == 1

    with_source(body)


def test_shares_of_challenges() -> None:
    async def body(source: Source) -> None:
        places = source.budget.leaf_places
        with places(ONE, 100, 0):
            refused(lambda: places(ONE, 1, 0))
            with places(TWO, 100, 0):
                refused(lambda: places(THREE, 65, 0))
                with places(THREE, 60, 0), places(THREE, 4, 0):
                    refused(lambda: places(THREE, 1, 0))
                    assert source.budget.challenges == 264
        assert source.budget.challenges == 0
        with places(ONE, 100, 0):
            pass

    with_source(body)


def test_shares_of_memory() -> None:
    async def body(source: Source) -> None:
        places, share = source.budget.leaf_places, budget.LEAF_BYTES
        with places(ONE, 1, share.each):
            refused(lambda: places(ONE, 1, 1))
            with places(TWO, 1, share.each):
                refused(lambda: places(THREE, 1, share.sure + 1))
                with places(THREE, 1, share.sure):
                    refused(lambda: places(THREE, 1, 1))
        refused(lambda: places(ONE, 1, share.each + 1))
        with places(ONE, 1, share.each), places(TWO, 1, share.each):
            pass
        assert source.budget.challenges == 0

    with_source(body)


def test_shares_of_keys() -> None:
    async def body(source: Source) -> None:
        back = [source.budget.key_place(ONE) for _ in range(KEYS.each)]
        refused(lambda: source.budget.key_place(ONE))
        for number in range(2, 2 + KEYS.total // KEYS.each - 1):
            for _ in range(KEYS.each):
                source.budget.key_place(payer_of(number))
        late = payer_of(99)
        for _ in range(KEYS.sure):
            source.budget.key_place(late)
        refused(lambda: source.budget.key_place(late))
        assert source.budget.keys == KEYS.total + KEYS.sure
        for give in back:
            give()
        source.budget.key_place(late)

    with_source(body)


def refused(asking: Callable[[], Any]) -> ServerError:
    with pytest.raises(ServerError) as caught:
        found = asking()
        with found:
            pass
    assert caught.value.code == "server.budget"
    return caught.value


def test_retry_after_is_the_time_that_quotes_have_been_taking() -> None:
    async def body(source: Source) -> None:
        assert refused(lambda: source.budget.leaf_places(ONE, 101, 0)).retry_after == 1
        for seconds in (0.25, 0.25, 0.25, 11.25):
            await line(source.quote(Turn.TREE, seconds=seconds))
            await source.go(1)
        assert source.budget.quote_seconds == 11.25
        with source.budget.leaf_places(ONE, 100, 0):
            # One tree with all of its own: 3 s a quote.
            assert refused(lambda: source.budget.leaf_places(ONE, 1, 0)).retry_after == 3
            # Two trees of all others', and a key between them.
            with source.budget.leaf_places(TWO, 100, 0):
                give = source.budget.key_place(THREE)
                assert refused(lambda: source.budget.leaf_places(payer_of(4), 100, 0)).retry_after == 9
                # A key's quotes come after every second tree's.
                for _ in range(KEYS.sure - 1):
                    source.budget.key_place(THREE)
                for _ in range(KEYS.each - KEYS.sure):
                    source.budget.key_place(THREE)
                assert refused(lambda: source.budget.key_place(THREE)).retry_after == 2 * 3 * KEYS.each
                give()

    with_source(body)


def test_retry_after_knows_of_a_stall_that_is_not_over() -> None:
    async def body(source: Source) -> None:
        await line(source.quote(Turn.TREE, seconds=0.25))
        await source.go(1)
        with source.budget.leaf_places(ONE, 100, 0):
            await line(source.quote(Turn.TREE))
            assert refused(lambda: source.budget.leaf_places(ONE, 1, 0)).retry_after == 1
            source.at += 39.5
            assert refused(lambda: source.budget.leaf_places(ONE, 1, 0)).retry_after == 40
            await source.go(1)
            source.at += 3600  # nothing is under way
            assert refused(lambda: source.budget.leaf_places(ONE, 1, 0)).retry_after == 21

    with_source(body)


def test_a_tree_waits_as_long_as_it_costs_nothing_unless_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host gives a quote each second, whenever it is asked: then trees close late."""
    begun: list[float] = []

    async def body(source: Source) -> None:
        full, due, real = asyncio.Event(), source.at, asyncio.timeout

        def timeout(seconds: float) -> asyncio.Timeout:
            if not full.is_set():
                source.at += seconds
            return real(0 if not full.is_set() else None)

        monkeypatch.setattr("agent.daemon.budget.asyncio.timeout", timeout)
        for number in range(12):
            if number == 11:
                full.set()
            async with source.budget.turn(Turn.TREE, full=full):
                begun.append(source.at - due)
                due = source.at = max(due + 1.0, source.at)
        assert source.budget.quote_seconds == pytest.approx(1.0)

    with_source(body)
    assert [round(waited, 2) for waited in begun] == [0, 0, 0, 0, 0, 0.2, 0.4, 0.75, 0.75, 0.75, 0.75, 0]
