"""One connection that speaks HTTP: one request at a time, answered in order, each before the next is looked at.

agent.daemon.webread parses, agent.daemon.dispatch answers. A client that breaks off takes its request with it; one
that does not read its answers is asked nothing more, and cut off.
"""

from __future__ import annotations

import asyncio
import logging
import math
import select
from typing import Protocol

from agent.core.errors import FormatError
from agent.daemon.admission import Guest
from agent.daemon.dispatch import HEADERS, Dispatch
from agent.daemon.turn import Repeat, Turn
from agent.daemon.web import Body, Request, Response
from agent.daemon.webread import Reader, refused

IDLE_SECONDS = 75.0
"""For the next request's head to be there after an answer."""
UNREAD_SECONDS = 30.0
"""For a client to read an answer."""
LINGER_SECONDS = 2.0
"""What comes after the last answer is thrown away for so long: cut off earlier, the client might lose the answer."""
AHEAD_BYTES = 1 << 16
"""Of requests behind the one under way, before their connection is read no further."""

_LOGGER = logging.getLogger("tee-agent.http")
_BUFFER = memoryview(bytearray(1 << 16))
"""Where all connections read to: what came is copied out before the event loop goes on."""


class Owner(Protocol):
    """Who keeps all connections: agent.daemon.front.Front."""

    def opened(self, connection: Connection) -> None: ...

    def comes(self, connection: Connection) -> None: ...

    def forget(self, connection: Connection) -> None: ...

    def stalls(self, connection: Connection) -> None: ...

    def reads_on(self, connection: Connection) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """One guest's connection."""

    def __init__(self, front: Owner, dispatch: Dispatch, guest: Guest) -> None:
        self._front = front
        self._dispatch = dispatch
        self._guest = guest
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._reader = Reader()
        self._data = b""
        """What came and is not used: the start of a head, or requests behind the one under way."""
        self._request: Request | None = None
        self._turn: Turn | None = None
        self._task: asyncio.Task[None] | None = None
        self._repeat: Repeat | None = None
        self._ended = False
        """The client says no more."""
        self._last = False
        """The answer under way, or that before, is the last."""
        self._deaf = False
        """What comes is thrown away."""
        self._unread = False
        """An answer waits for its reader."""
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None

    # The transport calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        self._front.opened(self)
        self._task = self._loop.create_task(self._run())

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        if not self._deaf:
            self._data += _BUFFER[:nbytes]
            self._advance()

    def eof_received(self) -> bool:
        """Who only ended its own side still gets its answers; who is gone does not."""
        self._ended = True
        if self._request and not self._request.body.complete:
            self._request.body.fail(refused("the body ended early"))
        if self._deaf or self._gone():
            return False
        self._loop.call_soon(self._again)
        return True

    def _gone(self) -> bool:
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), 0)
        return bool(poll.poll(0))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._timer:
            self._timer.cancel()
        if self._task:
            self._task.cancel()
        self._guest.leave()
        self._front.forget(self)

    def pause_writing(self) -> None:
        self._unread = True
        self._within(UNREAD_SECONDS)
        self._front.stalls(self)

    def resume_writing(self) -> None:
        self._unread = False
        self._front.reads_on(self)
        if self._request is None and not self._last:
            self._next()

    # From bytes to an answer.

    def _advance(self) -> None:
        """Use what came, as far as it is its turn."""
        try:
            if self._request:
                self._take_body(self._request)
            elif not self._unread:
                self._take_head()
        except FormatError as error:
            self._break_off(error)
        waits = self._unread or (self._request and self._request.body.complete)
        if waits and len(self._data) > AHEAD_BYTES:
            self._transport.pause_reading()

    def _take_head(self) -> None:
        found = self._reader.head(self._data)
        if found is None:
            return
        head, size = found
        self._data = self._data[size:]
        request = Request(head, Body(self._flow, self._go_on if head.asks else None))
        self._take_body(request)
        self._guest.spoken()
        self._deadline = math.inf
        self._request = request
        self._front.comes(self)

    @property
    def uid(self) -> int:
        """The guest's."""
        return self._guest.peer.caller.uid

    def turn(self) -> None:
        """Answer the request that is there, if it still is: as the one before it where that goes, else in its task."""
        if not (self._turn and self._request) or self._turn.done():
            return
        data = self._repeat.answer(self._request) if self._repeat and not self._last else None
        if data is None:
            self._turn.come()
        else:
            self._request = None
            self._out(data)

    def afresh(self) -> None:
        """The next request is answered as if it were the first."""
        self._repeat = None

    def _out(self, data: bytes) -> None:
        """An answer, and on to the next request."""
        self._transport.write(data)
        if not self._unread:
            self._next()

    def _take_body(self, request: Request) -> None:
        if request.body.complete:
            return
        size = self._reader.body(self._data, request.body)
        self._data = self._data[size:]
        if size and self._data and not request.body.complete:
            self._loop.call_soon(self._advance)

    def _flow(self, full: bool) -> None:
        (self._transport.pause_reading if full else self._transport.resume_reading)()

    def _go_on(self) -> None:
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _break_off(self, error: FormatError) -> None:
        """What came is not HTTP. The request under way is told, or a bare 400 says so."""
        self._data, self._deaf, self._last = b"", True, True
        if self._request:
            self._request.body.fail(error)
        else:
            self._transport.write(_bare(400).encode(keep_alive=False))
            self._end(abruptly=True)

    async def _run(self) -> None:
        """One task answers all requests: it is what ends when the client leaves."""
        while True:
            if self._request is None:
                self._turn = Turn(loop=self._loop)
                await self._turn
            if self._request:
                await self._serve(self._request)

    async def _serve(self, request: Request) -> None:
        try:
            response = await self._dispatch.answer(request, self._guest.peer, permitted=self._guest.permitted)
        except Exception:
            _LOGGER.exception("a request has no answer")
            response = _bare(500)
        whole = request.body.complete
        last = self._last or response.close or not (request.head.keep_alive and whole)
        self._request = None
        self._repeat = Repeat(request.head, response, response.again) if response.again and not last else None
        data = response.encode(keep_alive=not last, head_only=request.method == "HEAD")
        if last:
            self._transport.write(data)
            self._end(abruptly=not whole)
        else:
            self._out(data)

    def _next(self) -> None:
        """An answer is out: what came behind its request has its turn after other connections."""
        self._within(IDLE_SECONDS)
        self._transport.resume_reading()
        if self._data or self._ended:
            self._loop.call_soon(self._again)

    def _again(self) -> None:
        if self._request or self._last or self._unread:
            return
        before = len(self._data)
        self._advance()
        if self._ended and len(self._data) == before and not self._last:
            self._end()

    # The end.

    def _end(self, *, abruptly: bool = False) -> None:
        """Close. ``abruptly``: the client may still be sending, and wants to read why it should not."""
        self._deaf = self._last = True
        if abruptly and not self._ended and not self._transport.is_closing():
            self._within(UNREAD_SECONDS if self._unread else LINGER_SECONDS)
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def finish(self) -> None:
        """After the request under way, close."""
        self._last = True
        if self._request is None:
            self._end()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    @property
    def unsent(self) -> int:
        """Bytes of answers that wait for their reader."""
        return self._transport.get_write_buffer_size()

    def _within(self, seconds: float) -> None:
        """Cut off then, unless told otherwise. One timer: it looks again when it comes too early."""
        self._deadline = self._loop.time() + seconds
        if self._timer and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._loop.time() >= self._deadline:
            self._transport.abort()
        elif self._deadline < math.inf:
            self._timer = self._loop.call_at(self._deadline, self._check)


def _bare(status: int) -> Response:
    response = Response(status=status, content_type="text/plain", headers=HEADERS)
    response.close = True
    return response
