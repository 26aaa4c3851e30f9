"""What a connection does when it is its turn: it wakes the task that answers, or answers as it did the last time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from agent.daemon.web import Again, Head, Request, Response


class Turn(asyncio.Future[None]):
    """A future that wakes its one waiter at once. A round of the event loop costs as much as a tenth of a signature."""

    _waiter: Callable[[Any], object] | None = None
    _context: Context | None = None

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        self._waiter, self._context = fn, context

    def come(self) -> None:
        """Now. The waiter goes on in its own task, which may be done when this returns."""
        self.set_result(None)
        if self._waiter:
            (copy_context() if self._context is None else self._context).run(self._waiter, self)

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self._waiter:
            self.get_loop().call_soon(self._waiter, self, context=self._context)
        return cancelled


class Repeat:
    """How the last answer is given again, to requests of the same head."""

    __slots__ = ("_again", "_head", "_heads")

    def __init__(self, head: Head, response: Response, again: Again) -> None:
        self._head, self._heads, self._again = head, response.heads(), again

    def answer(self, request: Request) -> bytes | None:
        """As it goes over the wire; None where the long way has to be taken."""
        if request.head is not self._head or not request.body.complete:
            return None
        body = self._again(request.body.here)
        return None if body is None else self._heads(int(time.time()), len(body)) + body
