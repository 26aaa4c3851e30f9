"""Batches: all or nothing, in slices that leave others their turn."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from agent.core.errors import FormatError, Oversized, ServerError, TeeAgentError, UsageError
from agent.daemon import bulk, payloads
from agent.daemon.bulk import Bulk, Press
from agent.daemon.payloads import Memory
from agent.daemon.web import Body, Head, Headers, Request
from tests.support.bulk import batch, data


def request(body: bytes, *, ended: bool = True) -> Request:
    found = Body(lambda _: None)
    found.feed(body)
    if ended:
        found.end()
    headers = Headers({"content-type": bulk.TYPE})
    head = Head("POST", "/v1/sign", "", headers, len(body), keep_alive=True, asks=False)
    return Request(head, found)


class World:
    """A batch whose signatures are the payloads themselves, between bars."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.memory = Memory()
        self.bulk = Bulk(self.memory, clock)
        self.signed: list[bytes] = []
        self.counted: list[int] = []

    def sign(self, payload: bytes) -> bytes:
        self.signed.append(payload)
        return b'"|%s|"' % payload

    async def begin(self) -> Press[bytes]:
        return Press(self.sign, self.counted.append, b'"head":1,')

    def answer(self, body: bytes, uid: int = 1, begin: Callable[[], Awaitable[Press[bytes]]] | None = None) -> Any:
        return self.bulk.answer(request(body), uid, payloads.data_of_item, begin or self.begin)


def run(body: Callable[[World], Coroutine[Any, Any, None]], clock: Callable[[], float] = lambda: 0.0) -> World:
    async def main() -> World:
        world = World(clock)
        await body(world)
        assert world.memory.held == 0
        return world

    return asyncio.run(main())


def test_signatures_are_in_the_payloads_order() -> None:
    async def body(world: World) -> None:
        found = await world.answer(batch(*(data(b"%d" % number) for number in range(1000))))
        assert json.loads(found) == {"head": 1, "signatures": [f"|{number}|" for number in range(1000)]}

    world = run(body)
    assert sum(world.counted) == len(world.signed) == 1000


@pytest.mark.parametrize(
    "bad", [{}, {"data": "*"}, {"data": "QQ=="}, {"digest": {}}, {"data": "", "digest": {}}, 1, None]
)
def test_one_bad_payload_is_named_and_nothing_is_signed(bad: Any) -> None:
    async def body(world: World) -> None:
        given = [data(b"x") for _ in range(20)]
        given[17] = bad if bad != {"data": "QQ=="} else {"data": "QR=="}  # an unused bit is set
        with pytest.raises(FormatError, match=r"^payloads\[17\]: "):
            await world.answer(batch(*given))

    world = run(body)
    assert (world.signed, world.counted) == ([], [])


def test_a_payload_that_is_too_large_is_refused() -> None:
    async def body(world: World) -> None:
        with pytest.raises(FormatError, match=r"^payloads\[1\]: "):
            await world.answer(batch(data(b"x"), data(bytes(payloads.MAX_WHOLE + 1))))
        await world.answer(batch(data(b"x"), data(bytes(payloads.MAX_WHOLE))))

    run(body)


def test_the_body_is_bounded() -> None:
    async def body(world: World) -> None:
        with pytest.raises(Oversized):
            await world.answer(b" " * (bulk.MAX_BYTES + 1))
        with pytest.raises(FormatError, match="signs a payload, not a digest"):
            await world.answer(batch({"digest": {"alg": "sha-512", "digest": "00" * 64, "size": 0}}))

    run(body)


def test_batches_of_one_user_are_bounded_and_others_go_on() -> None:
    async def body(world: World) -> None:
        gate = asyncio.Event()

        async def slow() -> Press[bytes]:
            await gate.wait()
            return await world.begin()

        waiting = [asyncio.ensure_future(world.answer(batch(data(b"x")), 1, slow)) for _ in range(bulk.MAX_UNDER_WAY)]
        await asyncio.sleep(0)
        with pytest.raises(ServerError) as caught:
            await world.answer(batch(data(b"x")), 1)
        assert (caught.value.code, caught.value.retry_after) == ("server.budget", 1.0)
        await world.answer(batch(data(b"x")), 2)
        gate.set()
        await asyncio.gather(*waiting)
        await world.answer(batch(data(b"x")), 1)

    run(body)


def test_the_room_of_a_batch_that_fails_is_free_again() -> None:
    async def body(world: World) -> None:
        async def broken() -> Press[bytes]:
            raise ServerError("the key has no evidence yet")

        for _ in range(2 * bulk.MAX_UNDER_WAY):
            with pytest.raises(ServerError, match="no evidence"):
                await world.answer(batch(data(b"x")), 1, broken)
        await world.answer(batch(data(b"x")), 1)

    run(body)


def ticks() -> Callable[[], float]:
    """A clock on which everything takes about a quarter of a slice."""
    at = iter(number * bulk.SLICE_SECONDS / 4 for number in range(1_000_000))
    return lambda: next(at)


@pytest.mark.parametrize("batches", [1, 4])
def test_others_have_their_turn_between_slices(batches: int) -> None:
    """After each slice, whoever's batch it is of."""

    async def body(world: World) -> None:
        seen: list[int] = []

        async def other() -> None:
            while len(world.signed) < 100 * batches:
                seen.append(len(world.signed))
                await asyncio.sleep(0)

        await asyncio.gather(*(world.answer(batch(*[data(b"x")] * 100), uid) for uid in range(batches)), other())
        between = sorted(set(seen))
        assert len(between) >= 20 * batches
        assert max(b - a for a, b in itertools.pairwise(between)) <= 5

    world = run(body, ticks())
    assert max(world.counted) <= 5


def test_two_batches_take_turns() -> None:
    async def body(world: World) -> None:
        await asyncio.gather(world.answer(batch(*[data(b"a")] * 40), 1), world.answer(batch(*[data(b"b")] * 40), 2))
        runs = [len(list(run)) for _, run in itertools.groupby(world.signed)]
        assert len(runs) >= 10
        assert max(runs) <= 10

    run(body, ticks())


@pytest.mark.parametrize("bad", [0, 6])
def test_what_was_signed_is_counted_even_of_a_batch_that_ends_early(bad: int) -> None:
    async def body(world: World) -> None:
        def sign(payload: bytes) -> bytes:
            if payload == b"%d" % bad:
                raise TeeAgentError("the key is gone")
            return world.sign(payload)

        async def begin() -> Press[bytes]:
            return Press(sign, world.counted.append)

        with pytest.raises(TeeAgentError, match="gone"):
            await world.answer(batch(*(data(b"%d" % number) for number in range(10))), 1, begin)

    world = run(body, ticks())
    assert sum(world.counted) == len(world.signed) == bad
    assert 0 not in world.counted


def test_of_a_key_that_ends_meanwhile_no_signature_is_given_out() -> None:
    async def body(world: World) -> None:
        async def begin() -> Press[bytes]:
            if world.signed:
                raise UsageError("there is no such key", code="usage.key")
            return await world.begin()

        with pytest.raises(UsageError) as caught:
            await world.answer(batch(*[data(b"x")] * 10), 1, begin)
        assert caught.value.code == "usage.key"

    assert sum(run(body, ticks()).counted) == 10


def test_a_caller_who_leaves_ends_the_batch() -> None:
    async def body(world: World) -> None:
        begun = asyncio.Event()

        def sign(payload: bytes) -> bytes:
            begun.set()
            return world.sign(payload)

        async def begin() -> Press[bytes]:
            return Press(sign, world.counted.append)

        task = asyncio.ensure_future(world.answer(batch(*[data(b"x")] * 1000), 1, begin))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(world.signed) < 100
        await world.answer(batch(data(b"x")))

    world = run(body, ticks())
    assert sum(world.counted) == len(world.signed)
