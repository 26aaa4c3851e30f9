"""HTTP on the connections that agent.daemon.admission lets in: aiohttp speaks it, agent.daemon.dispatch answers.

Whom nothing is permitted gets a clear 403.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import BaseRequest, Response, Server
from aiohttp.web_protocol import RequestHandler

from agent.daemon.admission import Admission, Guest, Permits
from agent.daemon.dispatch import Dispatch

IDLE_SECONDS = 75
HEAD_BYTES, HEADERS = 8190, 64
DRAIN_SECONDS = 10.0

Closed = Callable[["Connection"], None]


class _Defects(logging.Filter):
    """What is our own fault is logged. A client's broken HTTP is answered: nobody fills the journal with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_LOGGER = logging.getLogger("tee-agent.http")
_LOGGER.addFilter(_Defects())


class Connection(Server):
    """One peer's connection, as a server of its own: the handler knows who asks."""

    def __init__(self, dispatch: Dispatch, guest: Guest, closed: Closed) -> None:
        super().__init__(
            self._answer,
            handler_cancellation=True,
            logger=_LOGGER,
            access_log=None,
            keepalive_timeout=IDLE_SECONDS,
            tcp_keepalive=False,
            max_line_size=HEAD_BYTES,
            max_field_size=HEAD_BYTES,
            max_headers=HEADERS,
            lingering_time=2.0,
            auto_decompress=False,
        )
        self._guest = guest
        self._dispatch = dispatch
        self._closed = closed

    async def _answer(self, request: BaseRequest) -> Response:
        self._guest.spoken()
        return await self._dispatch.answer(request, self._guest.peer, permitted=self._guest.permitted)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._guest.leave()
        self._closed(self)


class Front:
    """What one listening socket's guests talk to. ``admission`` counts them, with those of other sockets."""

    def __init__(self, allowed: Permits) -> None:
        self.admission = Admission(allowed)
        self._open: set[Connection] = set()

    def count(self) -> int:
        """Open connections, permitted or not."""
        return self.admission.count()

    async def run(self, sock: socket.socket, dispatch: Dispatch) -> None:
        """Serve for ever."""

        def welcome(guest: Guest) -> Connection:
            connection = Connection(dispatch, guest, self._open.discard)
            self._open.add(connection)
            return connection

        await self.admission.run(sock, welcome)

    async def drain(self) -> None:
        """Let requests under way end, then close everything."""
        for connection in tuple(self._open):
            connection.pre_shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await asyncio.gather(*(connection.shutdown(DRAIN_SECONDS) for connection in tuple(self._open)))
