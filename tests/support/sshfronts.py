"""What ssh clients talk to, over a real socket and keys that need no hardware, in this process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.core.access import Members, Rules
from agent.daemon import sockets
from agent.daemon.admission import Admission
from agent.daemon.guard import Guard
from agent.daemon.journal import Reports
from agent.daemon.sshapi import SshApi
from agent.daemon.sshfront import Connection, SshFront
from tests.support import named, ssh
from tests.support.waiting import until

ME = Members(frozenset({os.getuid()}))
FAILURE, NONE = ssh.framed(b"\5"), ssh.framed(b"\x0c" + bytes(4))
QUERY = ssh.extension(b"query")


@dataclass
class Standing:
    """A front that serves ``path``."""

    front: SshFront
    door: Admission
    path: Path
    task: asyncio.Task[None]

    def open(self) -> set[Connection]:
        return self.front._open

    async def drain(self) -> None:
        self.task.cancel()
        await self.front.drain()


@asynccontextmanager
async def standing(world: named.World, folder: Path) -> AsyncIterator[Standing]:
    """In this event loop; drained at the end, and then no place is taken."""
    guard = Guard(lambda: Rules(members=ME))
    door = Admission(guard)
    front = SshFront(door, SshApi(world.keys, guard, Reports()))
    listener = sockets.listen(folder, "ssh")
    found = Standing(front, door, listener.path, asyncio.create_task(front.run(listener.sock)))
    try:
        yield found
    finally:
        await found.drain()
        await until(lambda: door.count() == 0)
        listener.sock.close()
        os.close(listener.lock)


def serving(folder: Path, client: Callable[[Path], None]) -> None:
    """``client`` in a thread, the agent without a key in this one."""

    async def main(world: named.World) -> None:
        async with standing(world, folder) as found:
            await asyncio.to_thread(client, found.path)

    named.run(main)


def talk(path: Path, *said: bytes, end: bool = False) -> bytes:
    """Everything that comes back before the other side hangs up; ``end``: we do first, on our side."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        found = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            for part in said:
                sock.sendall(part)
            if end:
                sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(1 << 16):
                found += part
        return found


def told(path: Path, *said: bytes) -> socket.socket:
    """A client that said this, and is not waited for."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    sock.sendall(b"".join(said))
    return sock
