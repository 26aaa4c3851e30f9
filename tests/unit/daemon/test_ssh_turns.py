"""Whose request ssh clients' connections answer next, and how they end with the daemon."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.core.sshagent import SUCCESS
from agent.daemon import rota, sshfront
from agent.daemon.sshapi import Session
from agent.daemon.sshfront import Connection
from tests.support import named, ssh
from tests.support.sshfronts import QUERY, standing, talk, told
from tests.support.waiting import until


def slowed(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Each answer says that it has begun, and waits until it may go on."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(self: Session, message: bytes) -> bytes:
        begun.set()
        await go_on.wait()
        return SUCCESS

    monkeypatch.setattr(Session, "answer", slow)
    return begun, go_on


def test_one_request_at_a_time_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes meanwhile is not even read."""
    go_on, active, most = asyncio.Event(), 0, 0

    async def slow(self: Session, message: bytes) -> bytes:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await go_on.wait()
        active -= 1
        return ssh.framed(message)

    monkeypatch.setattr(Session, "answer", slow)
    sent = [ssh.framed(bytes([kind])) for kind in range(1, 9)]

    async def main(world: named.World) -> None:
        async with standing(world, tmp_path) as found:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(found.path))
                for frame in sent:
                    sock.sendall(frame)
                    for _ in range(20):  # of the loop's turns: each reads what is there to be read
                        await asyncio.sleep(0)
                assert (active, most) == (1, 1)
                go_on.set()
                assert [one async for one in _frames(sock, len(sent))] == [frame[4:] for frame in sent]
            assert most == 1

    named.run(main)


async def _frames(sock: socket.socket, count: int) -> AsyncIterator[bytes]:
    sock.setblocking(False)
    data = b""
    for _ in range(count):
        while len(data) < 5:
            data += await asyncio.get_running_loop().sock_recv(sock, 100)
        yield data[4:5]
        data = data[5:]


MINE = ssh.framed(b"\x11")


@pytest.mark.parametrize("crowd", [1, 20])
def test_one_request_does_not_wait_for_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crowd: int) -> None:
    """Neither for those of one connection that came in one piece, nor for another user's crowd of them."""
    answered: list[bytes] = []
    monkeypatch.setattr(rota, "ROUND_SECONDS", 0.0)

    async def answer(self: Session, message: bytes) -> bytes:
        answered.append(message)
        return SUCCESS

    monkeypatch.setattr(Session, "answer", answer)
    # Who asks for lists is one user, who asks for the other thing is another.
    monkeypatch.setattr(Connection, "uid", property(lambda self: self._waiting[0][0] if self._waiting else 0))

    async def main(world: named.World) -> None:
        async with standing(world, tmp_path) as found:
            with ExitStack() as stack:
                for _ in range(crowd):
                    stack.enter_context(told(found.path, ssh.listing() * 100))
                stack.enter_context(told(found.path, MINE))
                await until(lambda: len(answered) == 100 * crowd + 1)
        assert answered.index(MINE[4:]) < crowd + 20

    named.run(main)


def test_who_leaves_while_it_waits_for_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its turn comes to nobody, and others' come all the same."""
    answered: list[bytes] = []
    monkeypatch.setattr(rota, "ROUND_SECONDS", 0.0)

    async def main(world: named.World) -> None:
        async with standing(world, tmp_path) as found:

            async def answer(self: Session, message: bytes) -> bytes:
                answered.append(message)
                for connection in [one for one in found.open() if one._turn and not one._turn.done()]:
                    connection.abort()
                return SUCCESS

            monkeypatch.setattr(Session, "answer", answer)
            with ExitStack() as stack:
                for _ in range(8):
                    stack.enter_context(told(found.path, ssh.listing()))
                await until(lambda: bool(answered) and not any(one.task for one in found.open()))
                assert len(answered) < 8
                answered.clear()
                stack.enter_context(told(found.path, MINE))
                await until(lambda: answered == [MINE[4:]])
            await until(lambda: not found.open())
            assert not [last for last, _ in found.front._rota._last.values() if last]

    named.run(main)


def test_drain_lets_requests_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests under way get their answer, and then their client is hung up on, as are idle ones at once."""
    begun: list[bytes] = []
    go_on = {b"\x0b": asyncio.Event(), b"\x11": asyncio.Event()}

    async def slow(self: Session, message: bytes) -> bytes:
        begun.append(message)
        await go_on[message].wait()
        return SUCCESS

    monkeypatch.setattr(Session, "answer", slow)

    async def main(world: named.World) -> None:
        async with standing(world, tmp_path) as found:
            talks = (), (ssh.listing() * 2,), (MINE * 2,)
            idle, first, last = (asyncio.create_task(asyncio.to_thread(talk, found.path, *said)) for said in talks)
            await until(lambda: len(begun) == 2 and found.front.summary()["connections"] == 3)
            drained = asyncio.create_task(found.drain())
            assert await idle == b""
            go_on[b"\x0b"].set()
            assert await first == SUCCESS * 2
            assert not drained.done()
            go_on[b"\x11"].set()
            await drained
            assert await last == SUCCESS * 2

    named.run(main)


def test_drain_waits_no_longer_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sshfront, "DRAIN_SECONDS", 0.05)
    begun, _ = slowed(monkeypatch)

    async def main(world: named.World) -> None:
        async with standing(world, tmp_path) as found:
            busy = asyncio.create_task(asyncio.to_thread(talk, found.path, ssh.listing()))
            await begun.wait()
            await found.drain()
            assert await busy == b""

    named.run(main)


def test_a_request_under_way_has_no_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the connection's own: evidence may take its time, and has its own limits."""
    _, go_on = slowed(monkeypatch)

    async def main(world: named.World) -> None:
        async with standing(world, tmp_path) as found:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(found.path))
                await until(lambda: bool(found.open()))
                (connection,) = found.open()
                for half in (QUERY[:3], QUERY[3:] + QUERY[:3], QUERY[3:]):
                    sock.sendall(half)
                    if len(half) > 3:
                        await until(lambda: connection.task is not None)
                        assert (connection._timer, connection._guest._first) == (None, None)
                        go_on.set()
                        await until(lambda: connection.task is None)
                        go_on.clear()
                    await until(lambda: connection._timer is not None)

    named.run(main)
