"""HTTP on the connections that agent.daemon.admission lets in. Whom nothing is permitted gets a clear 403."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from functools import partial

from agent.daemon.admission import Admission, Permits
from agent.daemon.connection import Connection
from agent.daemon.dispatch import Dispatch
from agent.daemon.rota import Rota

DRAIN_SECONDS = 10.0
UNREAD_BYTES = 16 << 20
"""Of answers that clients do not read, over all connections; beyond, the one that waits longest is cut off."""


class Front:
    """What one listening socket's guests talk to. ``admission`` counts them, with those of other sockets."""

    def __init__(self, allowed: Permits) -> None:
        self.admission = Admission(allowed)
        self._open: set[Connection] = set()
        self._stalled: dict[Connection, None] = {}
        self._empty = asyncio.Event()
        self._rota: Rota | None = None

    def count(self) -> int:
        """Open connections, permitted or not."""
        return self.admission.count()

    async def run(self, sock: socket.socket, dispatch: Dispatch) -> None:
        """Serve for ever."""
        await self.admission.run(sock, lambda guest: partial(Connection, self, dispatch, guest))

    def opened(self, connection: Connection) -> None:
        """It is there."""
        self._open.add(connection)

    def comes(self, connection: Connection) -> None:
        """It has a request."""
        if self._rota is None:
            self._rota = Rota()
        self._rota.comes(connection)

    def forget(self, connection: Connection) -> None:
        """It is over."""
        self._open.discard(connection)
        self._stalled.pop(connection, None)
        if self._rota:
            self._rota.gone(connection)
        if not self._open:
            self._empty.set()

    def stalls(self, connection: Connection) -> None:
        """Its client does not read. Room for all such answers is bounded."""
        self._stalled[connection] = None
        while sum(each.unsent for each in self._stalled) > UNREAD_BYTES:
            first = next(iter(self._stalled))
            del self._stalled[first]
            first.abort()

    def reads_on(self, connection: Connection) -> None:
        """Its client has read all."""
        self._stalled.pop(connection, None)

    def afresh(self) -> None:
        """A key is no more: no connection remembers how it answered before."""
        for connection in self._open:
            connection.afresh()

    async def drain(self) -> None:
        """Take no more connections, let requests under way end, then close everything."""
        self.admission.stop()
        for connection in tuple(self._open):
            connection.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._all_gone()
        for connection in tuple(self._open):
            connection.abort()
        await self._all_gone()

    async def _all_gone(self) -> None:
        while self._open:
            self._empty.clear()
            await self._empty.wait()
