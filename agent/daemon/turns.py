"""Named keys take turns for evidence: one quote at a time, a bounded queue, a share of it for each namespace.

The agent's own key and its challenges don't stand in this queue: before the quoter, they find one named key ahead of
them at the most. That is their reserve.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.core.errors import ServerError

MOST, EACH = 32, 8
"""Keys that wait for evidence at the most: over all, and of one namespace."""


class Turns:
    """The queue. ``seconds`` is how long the last turn took."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting: Counter[str] = Counter()
        self.seconds = 0.0

    @property
    def waiting(self) -> int:
        return self._waiting.total()

    def require_room(self, namespace: str) -> None:
        """Raises ServerError (``server.budget``) when the queue, or this namespace's share of it, is full."""
        if self.waiting >= MOST or self._waiting[namespace] >= EACH:
            wait = max(1.0, self.waiting * self.seconds)
            raise ServerError("too many keys wait for evidence", retry_after=wait, code="server.budget")

    @asynccontextmanager
    async def turn(self, namespace: str) -> AsyncIterator[None]:
        """Wait for one's turn; whoever was there first goes first."""
        self._waiting[namespace] += 1
        try:
            async with self._lock:
                begun = time.monotonic()
                yield
                self.seconds = time.monotonic() - begun
        finally:
            self._waiting[namespace] -= 1
            if not self._waiting[namespace]:
                del self._waiting[namespace]
