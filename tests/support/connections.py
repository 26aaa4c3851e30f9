"""A door with a few plain endpoints, and what is said to it over one connection."""

from __future__ import annotations

import asyncio
import socket

from agent.daemon import body
from agent.daemon.dispatch import Call, Routes, as_bytes
from agent.daemon.web import Response
from tests.support.doors import handler

GET = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
LAST = b"GET /name HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def size(call: Call) -> Response:
    found = 0
    async for chunk in body.chunks(call.request, 1 << 30):
        found += len(chunk)
    return as_bytes(b"%d" % found, "text/plain")


async def name(call: Call) -> Response:
    return as_bytes(f"<{call.request.query_string}>".encode(), "text/plain")


async def slowly(call: Call) -> Response:
    for _ in range(3):
        await asyncio.sleep(0)
    return await name(call)


async def refuse(call: Call) -> Response:
    return as_bytes(b"no", "text/plain")


ROUTES: Routes = {
    "/size": {"POST": handler(size)},
    "/name": {"GET": handler(name)},
    "/slowly": {"GET": handler(slowly)},
    "/refuse": {"POST": handler(refuse)},
}


def bodies(answers: bytes) -> list[bytes]:
    """The bodies of answers that all have a length."""
    found = []
    while answers:
        head, _, answers = answers.partition(b"\r\n\r\n")
        (length,) = (int(line.split()[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
        found.append(answers[:length])
        answers = answers[length:]
    return found


def fill(sock: socket.socket, data: bytes) -> int:
    """Send until the other side takes no more, for a while that is long for one that would; how much it took."""
    sock.settimeout(2)
    sent = 0
    try:
        while True:
            sent += sock.send(data)
    except TimeoutError:
        return sent
    finally:
        sock.settimeout(60)
