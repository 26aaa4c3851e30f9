"""Payloads that must be whole: one's own share of the memory, and room again when they are done."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

from agent.core.access import Decision, Members, Rules, Wish
from agent.daemon import sockets
from agent.daemon.dispatch import Act, Call, Dispatch
from agent.daemon.front import Front
from agent.daemon.guard import Guard
from agent.daemon.payloads import DIGEST_TYPE, Memory
from agent.daemon.web import Response
from tests.support.waiting import awaited

HEAD = b"POST /whole HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\nContent-Type: %s\r\n\r\n"


def serving(folder: Path, memory: Memory, client: Callable[[Path], None]) -> None:
    """Answers with the size of what was held."""
    guard = Guard(lambda: Rules(members=Members(frozenset({os.getuid()}))))

    async def whole(call: Call) -> tuple[Wish, Act]:
        async def act(_: Decision) -> Response:
            async with memory.whole(call.request, call.peer.caller.uid) as data:
                return Response(f"held {len(data)}".encode())

        return Wish("sign"), act

    async def main() -> None:
        front, listener = Front(guard), sockets.listen(folder, "door")
        task = asyncio.create_task(front.run(listener.sock, Dispatch({"/whole": {"POST": whole}}, guard)))
        try:
            await asyncio.to_thread(client, listener.path)
        finally:
            task.cancel()
            await front.drain()
            listener.sock.close()
            os.close(listener.lock)

    asyncio.run(main())
    assert memory.held == 0


def begin(path: Path, size: int, sent: bytes, media_type: str = "text/plain") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(path))
    sock.sendall(HEAD % (size, media_type.encode()) + sent)
    return sock


def end(sock: socket.socket, rest: bytes = b"") -> bytes:
    with sock:
        if rest:
            sock.sendall(rest)
        return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def test_nobody_takes_more_than_a_share(tmp_path: Path) -> None:
    memory = Memory(total=10, each=6)

    def client(path: Path) -> None:
        slow = begin(path, 6, b"12345")
        awaited(lambda: memory.held, lambda held: held == 5)
        refused = end(begin(path, 2, b"12"))
        assert refused.startswith(b"HTTP/1.1 429 ")
        assert b"Retry-After: 1\r\n" in refused
        assert b"server.budget" in refused
        assert end(slow, b"6").endswith(b"held 6")
        assert end(begin(path, 6, b"123456")).endswith(b"held 6")

    serving(tmp_path, memory, client)


def test_all_together_have_a_bound(tmp_path: Path) -> None:
    memory = Memory(total=10, each=6)

    def client(path: Path) -> None:
        slow = begin(path, 6, b"12345")
        awaited(lambda: memory.held, lambda held: held == 5)
        memory._held[-1] += memory._held.pop(os.getuid())  # as if another user held them
        assert end(begin(path, 6, b"123456")).startswith(b"HTTP/1.1 429 ")
        memory._held[os.getuid()] += memory._held.pop(-1)
        assert end(slow, b"6").endswith(b"held 6")

    serving(tmp_path, memory, client)


def test_who_leaves_leaves_no_bytes(tmp_path: Path) -> None:
    memory = Memory()

    def client(path: Path) -> None:
        leaving = begin(path, 6, b"12345")
        awaited(lambda: memory.held, lambda held: held == 5)
        leaving.close()
        awaited(lambda: memory.held, lambda held: held == 0)
        assert end(begin(path, 6, b"123456")).endswith(b"held 6")

    serving(tmp_path, memory, client)


def test_a_digest_is_no_payload_here(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        assert end(begin(path, 2, b"{}", DIGEST_TYPE)).startswith(b"HTTP/1.1 400 ")

    serving(tmp_path, Memory(), client)


def test_what_came_at_once_takes_room_too(tmp_path: Path) -> None:
    memory = Memory(total=10, each=6)

    def client(path: Path) -> None:
        assert end(begin(path, 6, b"123456")).endswith(b"\r\n\r\nheld 6")
        assert end(begin(path, 7, b"1234567")).startswith(b"HTTP/1.1 429 ")

    serving(tmp_path, memory, client)
