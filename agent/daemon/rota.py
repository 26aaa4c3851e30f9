"""Whose request is answered next: users take turns, so that nobody waits for another user's five hundred.

A request alone is answered in the moment in which it is there. One user's many at a time stand in a queue of that
user's; a few of them are answered in each round of the event loop, the users in turn, and between rounds whoever
else connects or asks is heard.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

ROUND_SECONDS = 0.002
"""Of queued requests' work, before the event loop looks at everybody else."""
TOGETHER_SECONDS = 0.001
"""Two connections of one user that ask within so long are many at a time."""
MAX_KNOWN = 256
"""Users of whom it is known who asked last."""


class Asking(Protocol):
    """A connection whose request is there: agent.daemon.connection.Connection."""

    @property
    def uid(self) -> int: ...

    def turn(self) -> None:
        """Answer it now. It may have gone."""


class Rota:
    """The queues of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues: dict[int, deque[Asking]] = {}
        self._last: dict[int, tuple[Asking | None, float]] = {}

    def comes(self, asking: Asking) -> None:
        """A request is there: at once, or when its user's turn is."""
        uid, now = asking.uid, self._loop.time()
        queue = self._queues.get(uid)
        last, at = self._last.get(uid, (asking, now))
        if queue is None and (last is asking or now - at > TOGETHER_SECONDS):
            if len(self._last) >= MAX_KNOWN:
                self._last.clear()
            self._last[uid] = asking, now
            asking.turn()
            return
        if not self._queues:
            self._loop.call_soon(self._round)
        self._queues.setdefault(uid, deque()).append(asking)

    def gone(self, asking: Asking) -> None:
        """It asks no more, and is kept no longer; when it asked is still known."""
        last, at = self._last.get(asking.uid, (None, 0.0))
        if last is asking:
            self._last[asking.uid] = None, at

    def _round(self) -> None:
        end = self._loop.time() + ROUND_SECONDS
        while self._queues:
            uid, queue = next(iter(self._queues.items()))
            asking = queue.popleft()
            del self._queues[uid]
            if queue:
                self._queues[uid] = queue
            self._last[uid] = asking, self._loop.time()
            asking.turn()
            if self._loop.time() >= end:
                break
        if self._queues:
            self._loop.call_soon(self._round)
