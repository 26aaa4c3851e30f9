"""The ssh-agent protocol on the connections that agent.daemon.admission lets in: bytes, time limits, nothing decided.

One request of a connection is answered at a time, users in turn (agent.daemon.rota), and nothing behind what came
with it is read meanwhile: what a client may make us hold is a message, or as many small ones as one read has, and one
answer. Slow and half-open clients lose their own connection and disturb nobody else's.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from agent.core.errors import FormatError
from agent.core.sshagent import Frames
from agent.daemon.admission import Admission, Guest
from agent.daemon.rota import Rota
from agent.daemon.sshapi import Session, SshApi
from agent.daemon.turn import Turn

STALL_SECONDS = 10.0
"""For a message that has begun to be complete, and for an answer to be taken."""
IDLE_SECONDS = 300.0
"""Between two requests."""
DRAIN_SECONDS = 10.0
_BUFFER = memoryview(bytearray(4096))
"""Where all connections read to: what came is copied out before the event loop goes on."""

_LOGGER = logging.getLogger("tee-agent.ssh")


class Connection(asyncio.BufferedProtocol):
    """One client's. What has come is answered by a task, each request when it is its user's turn."""

    def __init__(self, session: Session, guest: Guest, front: SshFront) -> None:
        self._session, self._guest, self._front = session, guest, front
        self._frames = Frames()
        self._waiting: deque[bytes] = deque()
        self._writable = asyncio.Event()
        self._writable.set()
        self._turn: Turn | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last = False
        self.task: asyncio.Task[None] | None = None

    # The transport calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        self._front.opened(self)

    def get_buffer(self, _: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        began = self._frames.partial
        try:
            self._waiting.extend(self._frames.feed(_BUFFER[:nbytes]))
        except FormatError:
            self._transport.abort()
            return
        if self._waiting:
            self._guest.spoken()
            self._limit(None)
            # Its end is not read either, before all is answered: who only says no more still gets its answers.
            self._transport.pause_reading()
            self.task = asyncio.get_running_loop().create_task(self._work())
        elif not began:
            self._limit(STALL_SECONDS)

    def pause_writing(self) -> None:
        """The client has not taken all of an answer yet."""
        self._writable.clear()
        self._limit(STALL_SECONDS)

    def resume_writing(self) -> None:
        self._limit(None)
        self._writable.set()

    def connection_lost(self, _: Exception | None) -> None:
        self._limit(None)
        if self.task:
            self.task.cancel()
        self._guest.leave()
        self._front.forget(self)

    # What the front wants.

    @property
    def uid(self) -> int:
        """The guest's."""
        return self._guest.peer.caller.uid

    def turn(self) -> None:
        """Answer the request that waits, if it still does."""
        if self._turn and not self._turn.done():
            self._turn.come()

    def end(self) -> None:
        """No more requests: closed now, or after those that are there already."""
        self._last = True
        if self.task is None:
            self._transport.close()

    def abort(self) -> None:
        """At once, whatever is under way."""
        self._transport.abort()

    # From requests to answers.

    async def _work(self) -> None:
        try:
            while self._waiting and not self._session.over:
                await self._turns()
                self._transport.write(await self._session.answer(self._waiting.popleft()))
                await self._writable.wait()
        except Exception:
            # A defect of ours: told, and this client's connection ends with it.
            _LOGGER.exception("a request that was not answered")
            self._transport.abort()
        else:
            self._rest()
        finally:
            self.task = None

    async def _turns(self) -> None:
        """Until it is this one's turn. What came in one piece with another request lets others go first."""
        if self._turn:
            await asyncio.sleep(0)
        self._turn = Turn(loop=asyncio.get_running_loop())
        self._front.comes(self)
        await self._turn

    def _rest(self) -> None:
        self._turn = None
        if self._last or self._session.over:
            self._transport.close()
        elif not self._transport.is_closing():
            self._limit(STALL_SECONDS if self._frames.partial else IDLE_SECONDS)
            self._transport.resume_reading()

    def _limit(self, seconds: float | None) -> None:
        """The connection ends so soon, unless something is heard before; None: it does not."""
        if self._timer:
            self._timer.cancel()
        later = asyncio.get_running_loop().call_later
        self._timer = None if seconds is None else later(seconds, self._transport.abort)


class SshFront:
    """What the guests of one listening socket talk to."""

    def __init__(self, admission: Admission, api: SshApi) -> None:
        self._admission, self._api = admission, api
        self._open: set[Connection] = set()
        self._path: str | None = None
        self._rota: Rota

    def summary(self) -> dict[str, Any]:
        """For the status: ``socket`` is None where ssh clients are not served."""
        return {"socket": self._path, "connections": len(self._open)}

    async def run(self, sock: socket.socket) -> None:
        """Serve for ever."""
        self._path, self._rota = sock.getsockname(), Rota()
        await self._admission.run(sock, self._welcome)

    def _welcome(self, guest: Guest) -> Callable[[], Connection]:
        return lambda: Connection(Session(self._api, guest), guest, self)

    def opened(self, connection: Connection) -> None:
        """It is there."""
        self._open.add(connection)

    def comes(self, connection: Connection) -> None:
        """It has a request."""
        self._rota.comes(connection)

    def forget(self, connection: Connection) -> None:
        """It is over."""
        self._open.discard(connection)
        self._rota.gone(connection)

    async def drain(self) -> None:
        """Let requests under way end, then close everything."""
        for connection in tuple(self._open):
            connection.end()
        tasks = [connection.task for connection in tuple(self._open) if connection.task]
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await asyncio.gather(*tasks, return_exceptions=True)
        for connection in tuple(self._open):
            connection.abort()
        await asyncio.sleep(0)
