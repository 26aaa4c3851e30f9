"""Requests that wait for a tree, in a line for each user; which of them the next tree takes."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.core.errors import TeeAgentError
from agent.daemon import problem
from agent.daemon.asked import Answered, Asked, Signing


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A request in line. ``done`` gets None when the key's evidence has run out: then with a new one, once more."""

    asked: Asked
    key: Signing
    random: bytes
    hashes: Sequence[bytes]
    done: asyncio.Future[Answered | None]

    def fail(self, error: TeeAgentError) -> None:
        if not self.done.done():
            self.done.set_exception(problem.exception(problem.document(error)))

    def settle(self, answered: Answered | None) -> None:
        if not self.done.done():
            self.done.set_result(answered)


class Lines:
    """All that wait. ``leaves`` counts their challenges."""

    def __init__(self) -> None:
        self._lines: dict[int, deque[Waiting]] = {}
        self._passed: set[int] = set()
        self.leaves = 0

    def add(self, item: Waiting) -> None:
        """At the end of its user's line."""
        self._lines.setdefault(item.asked.uid, deque()).append(item)
        self.leaves += len(item.hashes)

    def remove(self, item: Waiting) -> None:
        """Who asked has left: nothing of it is kept. For one that no tree has taken meanwhile, or not any more."""
        line = self._lines.get(item.asked.uid, deque())
        if item in line:
            line.remove(item)
            self.leaves -= len(item.hashes)

    def emptied(self) -> list[Waiting]:
        """All that waited, who wait no more."""
        items = [item for line in self._lines.values() for item in line]
        self._lines.clear()
        self.leaves = 0
        return items

    def closed(self, most: int, may_stay: Callable[[Waiting], bool]) -> list[Waiting]:
        """The requests of a tree of ``most`` leaves; they wait no more.

        Always from the user who then has the fewest leaves in it, and before all of that the one request of each user
        for which the last tree had no room. Who may not stay is left out.
        """
        items: list[Waiting] = []
        passed, room = set[int](), most
        taken = {uid: -most if uid in self._passed else 0 for uid in self._lines}
        heap: list[tuple[int, int, int]] = []
        for number, uid in enumerate(taken):
            self._offer(heap, (taken[uid], number, uid), may_stay)
        while heap:
            _, number, uid = heapq.heappop(heap)
            count = len(self._lines[uid][0].hashes)
            if count > room:
                passed.add(uid)
                continue
            items.append(self._popped(uid))
            room, taken[uid] = room - count, max(0, taken[uid]) + count
            self._offer(heap, (taken[uid], number, uid), may_stay)
        self._passed = passed
        return items

    def _offer(
        self, heap: list[tuple[int, int, int]], user: tuple[int, int, int], may_stay: Callable[[Waiting], bool]
    ) -> None:
        """Put a user's next request in line, by the leaves that the user would have with it."""
        taken, number, uid = user
        line = self._lines[uid]
        while line and not may_stay(line[0]):
            self._popped(uid)
        if line:
            heapq.heappush(heap, (taken + len(line[0].hashes), number, uid))
        else:
            del self._lines[uid]

    def _popped(self, uid: int) -> Waiting:
        item = self._lines[uid].popleft()
        self.leaves -= len(item.hashes)
        return item
