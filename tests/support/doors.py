"""A front door in this process: agent.daemon.front with handlers of a test's own, and raw clients in threads.

::

    def client(path: Path) -> None:
        assert talk(path, b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n").startswith(b"HTTP/1.1 200 ")

    serving(tmp_path, routes, client)
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from agent.core.access import Decision, Members, Rules, Wish
from agent.daemon import sockets
from agent.daemon.dispatch import Act, Call, Dispatch, Handler, Routes
from agent.daemon.front import Front
from agent.daemon.guard import Guard
from agent.daemon.peers import Allowed
from agent.daemon.web import Response

SECONDS = 60


def everything() -> Guard:
    """Everything is allowed to this user."""
    return Guard(lambda: Rules(members=Members(frozenset({os.getuid()}))))


def handler(answer: Callable[[Call], Awaitable[Response]]) -> Handler:
    """Wishes for a signature, and answers."""

    async def handle(call: Call) -> tuple[Wish, Act]:
        async def act(_: Decision) -> Response:
            return await answer(call)

        return Wish("sign"), act

    return handle


def serving(
    folder: Path,
    routes: Routes,
    client: Callable[[Path], None],
    after: Callable[[Front], Awaitable[None]] | None = None,
    guard: Guard | None = None,
) -> Front:
    """``client`` in a thread, the front door in this one; ``after`` it, and before the door is drained.

    ``guard`` decides; by default this user may do everything.
    """
    door = Front(Allowed(uids=frozenset({os.getuid()})))

    async def main() -> None:
        listener = sockets.listen(folder, "door")
        task = asyncio.create_task(door.run(listener.sock, Dispatch(routes, guard or everything())))
        try:
            await asyncio.to_thread(client, listener.path)
            if after:
                await after(door)
        finally:
            await door.drain()
            task.cancel()
            listener.sock.close()
            os.close(listener.lock)

    asyncio.run(main())
    return door


def dial(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(SECONDS)
    sock.connect(str(path))
    return sock


def rest(sock: socket.socket) -> bytes:
    """Everything until the other side hangs up."""
    try:
        return b"".join(iter(lambda: sock.recv(1 << 16), b""))
    except ConnectionResetError:
        return b""


def talk(path: Path, *said: bytes) -> bytes:
    """Everything that comes back before the other side hangs up, which it may do before all is said."""
    with dial(path) as sock:
        with suppress(BrokenPipeError, ConnectionResetError):
            for part in said:
                sock.sendall(part)
        return rest(sock)
