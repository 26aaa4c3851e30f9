"""Audit heads on their way: only the newest waits, named keys are paced, refusals are told, failures tried again."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.core import headpost
from agent.core.errors import (
    DeadlineExceeded,
    Denied,
    FormatError,
    ProtocolError,
    ServerError,
    TeeAgentError,
    TlsError,
    TransportError,
)
from agent.daemon import heads
from agent.daemon.heads import NAMED_SECONDS, Sender
from agent.daemon.names import FETCHER, socket_path
from agent.daemon.peers import Caller
from tests.support.heads import key, seq_of
from tests.support.waiting import until

SIGNER = Caller(1, 0, 0, (), "", "")


class World:
    """A sender, what it sent, and what it said of that. ``answers`` are used up; then all is kept."""

    def __init__(self, *answers: str | TeeAgentError) -> None:
        self.answers = list(answers)
        self.sent: list[int] = []
        self.logged: list[str] = []
        self.told: list[tuple[str, str, Any]] = []
        self.pauses: list[float] = []
        self.now = 1000.0
        self.sender = Sender(self._send, lambda: self.now)

    def _send(self, document: bytes) -> str:
        self.sent.append(seq_of(document))
        answer = self.answers.pop(0) if self.answers else heads.KEPT
        if isinstance(answer, TeeAgentError):
            raise answer
        return answer

    async def tell(self, kind: str, severity: str, **fields: Any) -> None:
        self.told.append((kind, severity, fields["record"]))

    def has_sent(self, count: int) -> bool:
        return len(self.sent) == count

    def run(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            work = asyncio.create_task(self.sender.run(lambda _, error: self.logged.append(error.code), self.tell))
            await body()
            work.cancel()

        asyncio.run(main())


def test_each_new_key_of_its_own_is_sent_and_told() -> None:
    world = World()

    async def body() -> None:
        world.sender.own(key(3))
        await until(lambda: len(world.told) == 1)
        world.sender.own(key(9))
        await until(lambda: len(world.told) == 2)

    world.run(body)
    assert world.sent == [3, 9]
    assert world.told == [("head.kept", "info", 3), ("head.kept", "info", 9)]
    assert world.logged == []


def test_of_named_keys_the_newest_is_sent_when_its_time_has_come() -> None:
    world = World()

    async def body() -> None:
        world.sender.named(key(1))
        await until(lambda: world.sent == [1])
        world.sender.named(key(2))
        world.sender.named(key(3))
        world.sender.own(key(4))
        await until(lambda: world.sent == [1, 4])
        world.now += NAMED_SECONDS
        world.sender.own(key(5))
        await until(lambda: world.sent == [1, 4, 5, 3])

    world.run(body)


def test_waiting_for_the_time_is_no_waiting_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "NAMED_SECONDS", 0.01)
    world = World()
    world.sender = Sender(world._send)

    async def body() -> None:
        world.sender.named(key(1))
        await until(lambda: world.sent == [1])
        world.sender.named(key(2))
        await until(lambda: world.sent == [1, 2])

    world.run(body)


def test_what_failed_is_tried_again_unless_there_is_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = TransportError("gone")
    world = World(gone, ServerError("busy"), gone, heads.KEPT, gone)
    pauses: list[float] = []
    go_on = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await go_on.wait()
        go_on.clear()

    async def body() -> None:
        monkeypatch.setattr("agent.daemon.heads.asyncio.sleep", pause)
        world.sender.own(key(3))
        await until(lambda: len(pauses) == 1)
        go_on.set()
        await until(lambda: len(pauses) == 2)
        world.sender.own(key(9))
        go_on.set()
        await until(lambda: len(pauses) == 3)
        go_on.set()
        await until(lambda: len(world.told) == 1)
        world.sender.own(key(10))
        await until(lambda: len(pauses) == 4)
        monkeypatch.undo()

    world.run(body)
    assert world.sent == [3, 3, 9, 9, 10]
    assert pauses == [30.0, 60.0, 120.0, 30.0]
    assert world.logged == []


def test_a_newer_one_that_came_while_an_older_one_failed_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "RETRY_SECONDS", 0.001)
    world, gate = World(TransportError("gone")), threading.Event()
    send = world._send

    def slow(document: bytes) -> str:
        try:
            return send(document)
        finally:
            assert gate.wait(60)

    world.sender = Sender(slow, lambda: world.now)

    async def body() -> None:
        world.sender.own(key(3))
        await until(lambda: world.sent == [3])
        world.sender.own(key(9))
        gate.set()
        await until(lambda: world.told == [("head.kept", "info", 9)])

    world.run(body)
    assert world.sent == [3, 9]


def test_what_says_nothing_of_the_head_is_no_refusal_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that was slow once must not cost a head: the next one may be a day away."""
    monkeypatch.setattr(heads, "RETRY_SECONDS", 0.001)
    world = World(
        DeadlineExceeded("30 s"), ProtocolError("cut"), TlsError("another key"), heads.KEPT, TlsError("again")
    )

    async def body() -> None:
        world.sender.own(key(3))
        await until(lambda: world.told == [("head.kept", "info", 3)])
        world.sender.own(key(9))
        await until(lambda: len(world.told) == 2)

    world.run(body)
    assert world.sent == [3, 3, 3, 3, 9, 9]
    assert world.logged == ["transport.deadline", "transport.tls"]  # each time the first of them


def test_a_fetcher_that_had_no_place_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "RETRY_SECONDS", 0.001)
    world, got = World(), []
    world.sender = Sender(heads.through_fetcher(tmp_path))

    def fetch(listener: socket.socket) -> None:
        listener.accept()[0].close()
        with listener.accept()[0] as link, link.makefile("rwb") as stream:
            (length,) = struct.unpack(">I", stream.read(4))
            got.append(json.loads(stream.read(length))["method"])
            said = b'{"result":{"heads":"kept"}}'
            stream.write(struct.pack(">I", len(said)) + said)

    async def body() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(60)
            listener.bind(str(socket_path(tmp_path, FETCHER)))
            listener.listen(8)
            fetcher = asyncio.create_task(asyncio.to_thread(fetch, listener))
            world.sender.own(key(3))
            await until(lambda: world.told == [("head.kept", "info", 3)])
            await fetcher

    world.run(body)
    assert got == [heads.METHOD]


def test_a_refusal_is_logged_and_a_contradiction_is_an_alert() -> None:
    world = World(
        Denied("no policy", code="denied"),
        Denied("another head", code=headpost.CONTRADICTED),
        FormatError("too long"),
        heads.NOT_KEPT,
        "",
    )

    async def body() -> None:
        for seq in range(1, 7):
            world.sender.own(key(seq))
            await until(partial(world.has_sent, seq))
        await until(lambda: len(world.told) == 2)

    world.run(body)
    assert world.logged == ["denied", headpost.CONTRADICTED, "format"]
    assert world.told == [("head.contradicted", "alert", 2), ("head.kept", "info", 6)]
