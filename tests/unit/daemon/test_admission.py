"""Accepting: who connects in the very moment of the stop is left for the next process that listens."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.daemon.admission import AT_ONCE, MAX_DENIED, Admission, Guest
from agent.daemon.peers import Allowed, Caller


class Nobody:
    """Permits nobody."""

    def permits(self, _caller: Caller) -> bool:
        return False


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(100)
    return sock


OPEN: set[asyncio.BaseTransport] = set()


def silent(guest: Guest) -> Callable[[], asyncio.BaseProtocol]:
    class Silent(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            OPEN.add(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            guest.leave()

    return Silent


def test_a_connection_in_the_round_of_the_stop_is_not_swallowed(tmp_path: Path) -> None:
    errors: list[dict[str, Any]] = []
    admission = Admission(Allowed(frozenset({os.getuid()})))
    stop, tell = os.pipe()

    async def main(sock: socket.socket, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        loop.add_reader(stop, admission.stop)
        task = asyncio.create_task(admission.run(sock, silent))
        await asyncio.sleep(0)
        # Both are there when the loop looks next: the stop first.
        os.write(tell, b"x")
        client.connect(str(tmp_path / "s"))
        with suppress(asyncio.CancelledError):
            await task
        loop.remove_reader(stop)

    with listening(tmp_path / "s") as sock, socket.socket(socket.AF_UNIX) as client:
        asyncio.run(main(sock, client))
        assert errors == []
        assert admission.count() == 0
        accepted, _ = sock.accept()
        accepted.close()
    os.close(stop)
    os.close(tell)


def test_a_flood_of_refusals_lets_the_loop_go_on(tmp_path: Path) -> None:
    admission = Admission(Nobody())

    async def main(sock: socket.socket, clients: list[socket.socket]) -> int:
        task = asyncio.create_task(admission.run(sock, silent))
        await until(lambda: admission.count() == MAX_DENIED)
        for client in clients:
            client.connect(str(tmp_path / "s"))
        rounds = await until(lambda: all(ended(client) for client in clients))
        task.cancel()
        while OPEN:
            OPEN.pop().close()
        await until(lambda: admission.count() == 0)
        return rounds

    with listening(tmp_path / "s") as sock:
        held = [dialled(tmp_path / "s") for _ in range(MAX_DENIED)]
        clients = [socket.socket(socket.AF_UNIX) for _ in range(96)]
        assert asyncio.run(main(sock, clients)) >= len(clients) // AT_ONCE
        for each in (*held, *clients):
            each.close()


async def until(happened: Callable[[], bool]) -> int:
    """Rounds of the loop that it took."""
    for rounds in range(10_000):
        if happened():
            return rounds
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


def dialled(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


def ended(client: socket.socket) -> bool:
    """Whether the other side has closed it."""
    try:
        return client.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
