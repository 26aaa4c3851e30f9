"""Batches of challenges as they are read: in slices, and never what would hold others up."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from agent.core import canonical
from agent.core.errors import FormatError
from agent.daemon import bulk
from agent.daemon.dispatch import Call
from agent.daemon.formats import Means
from agent.daemon.freshapi import MAX_CHALLENGES, MAX_NESTED, FreshApi
from agent.daemon.peers import Caller
from agent.daemon.web import Body, Head, Headers, Request
from tests.support.batches import Batches

NOBODY: Any = None


def call(data: bytes) -> Call:
    body = Body(lambda _: None)
    body.feed(data)
    body.end()
    headers = Headers({"content-type": bulk.TYPE})
    head = Head("POST", "/v1/challenge", "", headers, len(data), keep_alive=True, asks=False)
    peer: Any = SimpleNamespace(caller=Caller(1, 1, 1, (), ""))
    return Call(Request(head, body), peer)


def api(world: Batches) -> FreshApi:
    """For what is read; nobody decides or reports."""
    return FreshApi(world.ring, world.batcher, NOBODY, NOBODY, Means.of(lambda: ()))


def challenges(count: int, claims: bytes = b"{}") -> bytes:
    one = b'{"nonce":"%s","claims":%s}' % (b"00" * 16, claims)
    return b'{"challenges":[%s]}' % b",".join([one] * count)


def test_others_are_served_while_a_batch_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: with the smallest slices the loop goes round once for each challenge."""
    monkeypatch.setattr(bulk, "SLICE_SECONDS", 0.0)

    async def body(world: Batches) -> None:
        reading, rounds = asyncio.ensure_future(api(world).challenge(call(challenges(MAX_CHALLENGES)))), 0
        while not reading.done():
            await asyncio.sleep(0)
            rounds += 1
        assert rounds >= MAX_CHALLENGES
        wish, _ = await reading
        assert wish.operation == "challenge"

    Batches(most=MAX_CHALLENGES).run(body)


@pytest.mark.parametrize("unit", [b"[]", b"{}"], ids=["lists", "objects"])
def test_what_a_parser_would_take_long_for_is_never_parsed(monkeypatch: pytest.MonkeyPatch, unit: bytes) -> None:
    async def body(world: Batches) -> None:
        most = (MAX_NESTED - 2 * MAX_CHALLENGES - 2) // MAX_CHALLENGES
        many = b'{"x":[%s]}' % b",".join([unit] * most)
        await api(world).challenge(call(challenges(MAX_CHALLENGES, many)))

        def parse(*_: Any) -> Any:
            raise AssertionError("it was parsed")

        monkeypatch.setattr(canonical, "parse", parse)
        with pytest.raises(FormatError, match="more than 4096 of"):
            await api(world).challenge(call(challenges(1, b'{"x":[%s]}' % b",".join([unit] * (MAX_NESTED + 1)))))

    Batches(most=MAX_CHALLENGES).run(body)


def test_a_challenge_that_is_wrong_is_named_by_its_place() -> None:
    async def body(world: Batches) -> None:
        data = json.loads(challenges(5))
        data["challenges"][3]["nonce"] = "00"
        with pytest.raises(FormatError, match=r"challenges\[3\]: nonce"):
            await api(world).challenge(call(json.dumps(data).encode()))

    Batches().run(body)
