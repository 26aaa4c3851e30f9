"""Connections: accepted, identified, counted, timed. aiohttp speaks HTTP on those that may stay.

A connection is judged when it is accepted. Slow or silent clients lose their own connection and nobody else's;
nobody holds more than a share. Whom nothing is permitted gets a clear 403, from a few places of their own.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import BaseRequest, Response, Server
from aiohttp.web_protocol import RequestHandler

from agent.core.errors import Denied
from agent.daemon.dispatch import Dispatch
from agent.daemon.peers import Caller, Peer, identify

MAX_CONNECTIONS, MAX_EACH, MAX_DENIED = 512, 192, 32
"""At the most: permitted ones, those of one user, and all that are not permitted together."""
FIRST_SECONDS = 10.0
"""For the first request's head to be complete after connect."""
IDLE_SECONDS = 75
HEAD_BYTES, HEADERS = 8190, 64
DRAIN_SECONDS = 10.0


class Permits(Protocol):
    """Says whether there may be anything for a caller here: agent.daemon.guard.Guard, or a list of users."""

    def permits(self, caller: Caller) -> bool: ...


Closed = Callable[["Connection"], None]


class _Defects(logging.Filter):
    """What is our own fault is logged. A client's broken HTTP is answered: nobody fills the journal with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_LOGGER = logging.getLogger("tee-agent.http")
_LOGGER.addFilter(_Defects())


class Connection(Server):
    """One peer's connection, as a server of its own: the handler knows who asks."""

    def __init__(self, dispatch: Dispatch, peer: Peer, *, permitted: bool, closed: Closed) -> None:
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
        self.peer = peer
        self.permitted = permitted
        self._dispatch = dispatch
        self._closed = closed
        self._first: asyncio.TimerHandle | None = None

    async def _answer(self, request: BaseRequest) -> Response:
        self._spoken()
        return await self._dispatch.answer(request, self.peer, permitted=self.permitted)

    def watch(self, transport: asyncio.Transport) -> None:
        """Cut it off unless a request comes in time."""
        if not transport.is_closing():
            self._first = asyncio.get_running_loop().call_later(FIRST_SECONDS, transport.abort)

    def _spoken(self) -> None:
        if self._first:
            self._first.cancel()
            self._first = None

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._spoken()
        self.peer.close()
        self._closed(self)


class Front:
    """The accept loop over one listening socket."""

    def __init__(self, allowed: Permits) -> None:
        self._allowed = allowed
        self._open: set[Connection] = set()
        self._by_uid: Counter[int] = Counter()

    def count(self) -> int:
        """Open connections, permitted or not."""
        return len(self._open)

    async def run(self, sock: socket.socket, dispatch: Dispatch) -> None:
        """Accept for ever."""
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        while True:
            try:
                accepted, _ = await loop.sock_accept(sock)
            except OSError:
                # Out of descriptors or memory: what is open goes on, and the pause lets some of it end.
                await asyncio.sleep(0.1)
                continue
            try:
                await self._take(accepted, dispatch)
            except (Denied, OSError):
                accepted.close()

    async def _take(self, accepted: socket.socket, dispatch: Dispatch) -> None:
        peer = identify(accepted)
        permitted = self._allowed.permits(peer.caller)
        if not self._has_room(peer.caller.uid, permitted=permitted):
            peer.close()
            accepted.close()
            return
        connection = Connection(dispatch, peer, permitted=permitted, closed=self._forget)
        self._open.add(connection)
        self._by_uid[peer.caller.uid] += 1
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(connection, accepted)
        connection.watch(transport)

    def _has_room(self, uid: int, *, permitted: bool) -> bool:
        same = sum(1 for connection in self._open if connection.permitted == permitted)
        if not permitted:
            return same < MAX_DENIED
        return same < MAX_CONNECTIONS and self._by_uid[uid] < MAX_EACH

    def _forget(self, connection: Connection) -> None:
        if connection in self._open:
            self._open.discard(connection)
            uid = connection.peer.caller.uid
            self._by_uid[uid] -= 1
            if not self._by_uid[uid]:
                del self._by_uid[uid]

    async def drain(self) -> None:
        """Let requests under way end, then close everything."""
        for connection in tuple(self._open):
            connection.pre_shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await asyncio.gather(*(connection.shutdown(DRAIN_SECONDS) for connection in tuple(self._open)))
