"""Bounds on connections: how many there are, and how long one may take to send its first request.

aiohttp ends idle connections between requests, but waits for ever for the first one: a client that sends nothing, or
one header in an hour, would hold its connection and its descriptor.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

MAX_CONNECTIONS = 256
"""Times the largest body, 2 MiB: what all clients together can make us hold."""


class _Refuse(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()


class Connections:
    """Makes a protocol for each connection; ``arrived`` is to be told of each request."""

    def __init__(self, read_seconds: float, limit: int = MAX_CONNECTIONS) -> None:
        self._read_seconds = read_seconds
        self._limit = limit
        self._waiting: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}

    def protocol(self, server: web.Server) -> asyncio.BaseProtocol:
        """For asyncio's create_server, called as a connection is accepted, before its TLS handshake."""
        if len(server.connections) >= self._limit:
            return _Refuse()
        handler = server()
        timer = asyncio.get_running_loop().call_later(self._read_seconds, self._expire, handler)
        self._waiting[handler] = timer
        return handler

    def arrived(self, request: web.BaseRequest) -> None:
        """The headers of a request are there: from now on the request's own bounds hold."""
        timer = self._waiting.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, handler: web.RequestHandler) -> None:
        if self._waiting.pop(handler, None) is not None:
            handler.force_close()
