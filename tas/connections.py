"""Bounds on connections: how many there are, for one client too, and how long one may take to send its first request.

aiohttp ends idle connections between requests, but not in every version one that never sends the first: it would
hold its descriptor for ever. A guard stands between the transport and aiohttp's protocol and passes everything on.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from tas.limits import client_network, is_loopback

MAX_CONNECTIONS = 256
"""Times the largest body, 2 MiB: what all clients together can make us hold."""
MAX_PER_CLIENT = MAX_CONNECTIONS // 2
"""Nobody alone keeps the others out. Not less: many may stand behind one address. Loopback may be a proxy of ours."""


class Connections:
    """The open connections. ``read_seconds`` run from the end of a TLS handshake to the end of a request's head."""

    def __init__(self, read_seconds: float, limit: int = MAX_CONNECTIONS, per_client: int = MAX_PER_CLIENT) -> None:
        self.read_seconds = read_seconds
        self._limit, self._per_client = limit, per_client
        self._open: dict[asyncio.Protocol, str] = {}

    def guard(self, protocol: asyncio.Protocol) -> asyncio.Protocol:
        """For asyncio's create_server: what to connect instead of ``protocol``."""
        return _Guard(protocol, self)

    def arrived(self, request: web.BaseRequest) -> None:
        """The head of a request is there: from now on the request's own bounds hold."""
        guard = request.transport.get_protocol() if request.transport else None
        if isinstance(guard, _Guard):
            guard.relax()

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

    def relax(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            return
        peer = transport.get_extra_info("peername")
        self._admitted = self._connections.admit(self, str(peer[0]) if peer else "")
        if not self._admitted:
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._connections.read_seconds, transport.abort)
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._admitted:
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received() if self._admitted else None

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.relax()
        self._connections.forget(self)
        if self._admitted:
            self._protocol.connection_lost(exc)
