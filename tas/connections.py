"""Bounds on connections: how many there are, for one client too, how long one may take to send its first request, and
how much it may send before it has its answers.

aiohttp ends idle connections between requests, but not in every version one that never sends the first: it would
hold its descriptor for ever. Nor does every version (3.11 does not) bound the requests that a client sends without
reading an answer: they would be kept, all of them. A guard stands between the transport and aiohttp's protocol. What
goes beyond the room of a connection waits, unread where it can, and after a few requests the connection ends.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from tas.limits import client_network, is_loopback

MAX_CONNECTIONS = 256
"""Times the largest body, 2 MiB: what all clients together can make us hold."""
MAX_PER_CLIENT = MAX_CONNECTIONS // 2
"""Nobody alone keeps the others out. Not less: many may stand behind one address. Loopback may be a proxy of ours."""
MAX_REQUESTS = 2
"""On one connection: a nonce and a secret."""
HEAD_BYTES = 1 << 14
"""Room for a request beside its body. aiohttp takes no line of more than 8190 bytes."""
CHUNKED_BYTES = 4 << 20
"""Room for a body of a length that it does not say: twice what is read of it."""


class Connections:
    """The open connections. ``read_seconds`` run from the end of a TLS handshake to the end of a request's head."""

    def __init__(self, read_seconds: float, limit: int = MAX_CONNECTIONS, per_client: int = MAX_PER_CLIENT) -> None:
        self.read_seconds = read_seconds
        self._limit, self._per_client = limit, per_client
        self._open: dict[asyncio.Protocol, str] = {}

    def guard(self, protocol: asyncio.Protocol) -> asyncio.Protocol:
        """For asyncio's create_server: what to connect instead of ``protocol``."""
        return _Guard(protocol, self)

    def arrived(self, request: web.BaseRequest) -> bool:
        """The head of a request is there: from now on its own bounds hold. Returns whether another may follow."""
        guard = request.transport.get_protocol() if request.transport else None
        if not isinstance(guard, _Guard):
            return False
        body = request.content_length or 0
        return guard.arrived(body if body or not request.can_read_body else CHUNKED_BYTES)

    def admit(self, guard: asyncio.Protocol, address: str) -> bool:
        """Whether one more may be open, from this address."""
        client = client_network(address)
        held = 0 if is_loopback(address) else sum(1 for other in self._open.values() if other == client)
        if len(self._open) >= self._limit or held >= self._per_client:
            return False
        self._open[guard] = client
        return True

    def forget(self, guard: asyncio.Protocol) -> None:
        self._open.pop(guard, None)


class _Guard(asyncio.Protocol):
    def __init__(self, protocol: asyncio.Protocol, connections: Connections) -> None:
        self._protocol = protocol
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self._admitted = False
        self._transport: asyncio.Transport | None = None
        self._room, self._requests = HEAD_BYTES, 0
        self._waiting = b""

    def arrived(self, body: int) -> bool:
        """A request whose body has so many bytes."""
        self._relax()
        self._room += HEAD_BYTES + body
        self._requests += 1
        self.data_received(b"")
        return self._requests < MAX_REQUESTS

    def _relax(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            return
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._admitted = self._connections.admit(self, str(peer[0]) if peer else "")
        if not self._admitted:
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._connections.read_seconds, transport.abort)
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Passes on what there is room for; the rest waits for the next request's room, and no more is read."""
        if not self._admitted or self._transport is None:
            return
        had, data = bool(self._waiting), self._waiting + data
        taken, self._waiting = data[: self._room], data[self._room :]
        self._room -= len(taken)
        if taken:
            self._protocol.data_received(taken)
        if self._waiting:
            self._transport.pause_reading()
        elif had:
            self._transport.resume_reading()

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received() if self._admitted else None

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        self._connections.forget(self)
        if self._admitted:
            self._protocol.connection_lost(exc)
