"""Who may wait for a quote, and whose turn is next: the one place that decides it (DESIGN.md, section 4).

Quotes are scarce, 25 a second or one in ten. Whatever costs one, or a place in a tree that one is asked for, is
counted here by user: one with many connections has no more. What waits is bounded over all and for each, but a user
who holds next to nothing is let in even when others hold everything. Then turns: the agent's own key comes first;
after it, trees of challenges and named keys alternate, so neither kind keeps the other waiting for more than one
quote. Among keys, renewals come before new ones, and new ones go round by user. Over budget is 429 ``server.budget``
with the time that the quotes ahead will take, as quotes have been taking.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum

from agent.core.errors import ServerError
from agent.daemon.pace import Pace

MOST = 10_000
"""Challenges in a tree, unless the configuration says otherwise."""
REMEMBERED = 16
"""Quotes whose mean time is what the next is expected to take."""
UNKNOWN_SECONDS = 1.0
"""The same before the first."""


@dataclass(frozen=True, slots=True)
class Share:
    """What may wait: over all users, of one, and what one may hold whatever the others do."""

    total: int
    each: int
    sure: int


KEYS = Share(total=32, each=8, sure=2)
"""Named keys that are made."""
LEAF_BYTES = Share(total=32 << 20, each=16 << 20, sure=64 << 10)
"""Memory of challenges that wait, as ``agent.daemon.batch`` counts it."""


def leaves(most: int) -> Share:
    """Challenges, where ``most`` fit in a tree: two trees over all, one for each user."""
    return Share(2 * most, most, min(64, most))


def payer_of(uid: int) -> str:
    """How a user's share is called; so is the namespace that a user has unless a rule gives another one."""
    return f"uid-{uid}"


class Turn(Enum):
    """What a quote is for."""

    OWN = "the agent's own key"
    RENEWAL = "a named key's new evidence"
    KEY = "a new named key"
    TREE = "challenges"


Queues = dict[str, deque[asyncio.Future[None]]]
"""Who waits for a turn, by user: in the order of their turns."""


@dataclass(slots=True)
class Granted:
    """A turn. ``quoted`` is to be set to False where no quote was needed after all."""

    quoted: bool = True


class Places:
    """What is held of one kind, by user."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._held: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self._held.total()

    def has_room(self, payer: str, count: int) -> bool:
        mine = self._held[payer] + count
        return mine <= self._share.each and (mine <= self._share.sure or self.total + count <= self._share.total)

    def add(self, payer: str, count: int) -> None:
        self._held[payer] += count
        if not self._held[payer]:
            del self._held[payer]

    def of(self, payer: str) -> int:
        return self._held[payer]


class Budget:
    """For one signer; used from its event loop's thread only. ``most`` challenges fit in a tree.

    ``clock`` counts seconds. ``payer`` says whose share it is, as ``payer_of`` a user does.
    """

    def __init__(self, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._leaves, self._bytes, self._keys = Places(leaves(most)), Places(LEAF_BYTES), Places(KEYS)
        self._queues: dict[Turn, Queues] = {kind: {} for kind in Turn}
        self._busy, self._since = False, 0.0
        self._now = self._last = Turn.KEY
        self._ended = -math.inf
        self._took: deque[float] = deque(maxlen=REMEMBERED)
        self._pace = Pace()
        self.quotes = 0

    @property
    def quote_seconds(self) -> float:
        """What the last quote took, with the pause before it; 0.0 before the first."""
        return self._took[-1] if self._took else 0.0

    @property
    def expected_seconds(self) -> float:
        """The mean of the last ones, the host's stalls in it; no less than the one under way has taken already."""
        mean = sum(self._took) / len(self._took) if self._took else UNKNOWN_SECONDS
        return max(mean, self._clock() - self._since) if self._busy else mean

    @property
    def challenges(self) -> int:
        """Challenges that hold a place."""
        return self._leaves.total

    @property
    def keys(self) -> int:
        """Named keys that are made, or get new evidence."""
        return self._keys.total + self._renewals()

    def _renewals(self) -> int:
        queued = sum(len(queue) for queue in self._queues[Turn.RENEWAL].values())
        return queued + (self._busy and self._now is Turn.RENEWAL)

    def require_leaf(self, payer: str) -> None:
        """For who comes with a large request, before it is read. Raises ServerError (``server.budget``)."""
        with self.leaf_places(payer, 1, 0):
            return

    @contextmanager
    def leaf_places(self, payer: str, count: int, size: int) -> Iterator[None]:
        """Hold ``count`` places in trees, with ``size`` bytes of memory. Raises ServerError (``server.budget``)."""
        if not (self._leaves.has_room(payer, count) and self._bytes.has_room(payer, size)):
            trees = math.ceil((self._leaves.of(payer) or self._leaves.total) / self.most)
            raise self._refusal("challenges", trees + bool(self._keys.total))
        self._leaves.add(payer, count)
        self._bytes.add(payer, size)
        try:
            yield
        finally:
            self._leaves.add(payer, -count)
            self._bytes.add(payer, -size)

    def key_place(self, payer: str) -> Callable[[], None]:
        """A place for a new key; what is returned gives it back, once. Raises ServerError (``server.budget``)."""
        if not self._keys.has_room(payer, 1):
            ahead = self._renewals() + (self._keys.of(payer) or self._keys.total)
            raise self._refusal("keys", ahead * (2 if self._leaves.total else 1))
        self._keys.add(payer, 1)
        return lambda: self._keys.add(payer, -1)

    def _refusal(self, what: str, quotes: int) -> ServerError:
        return ServerError(
            f"too many {what} wait for a quote",
            hint="wait for the answers that you asked for, or as long as Retry-After says",
            retry_after=max(1.0, math.ceil(max(1, quotes) * self.expected_seconds)),
            code="server.budget",
        )

    @asynccontextmanager
    async def turn(self, kind: Turn, payer: str = "", full: asyncio.Event | None = None) -> AsyncIterator[Granted]:
        """One's turn for a quote; what is done inside is timed as the quote, and counts as one unless it fails.

        With ``full``, a tree's: it begins as late as costs no time (agent.daemon.pace), or when ``full`` is set.
        """
        await self._granted(kind, payer)
        try:
            granted = self._clock()
            if full:
                await self._paused(full)
            turn, begun = Granted(), self._clock()
            yield turn
            if turn.quoted:
                self._count(granted, begun, paced=full is not None)
        finally:
            self._ended = self._clock()
            self._pass_on()

    def _count(self, granted: float, begun: float, *, paced: bool) -> None:
        at = self._clock()
        self.quotes += 1
        self._took.append(at - granted)
        if paced:
            self._pace.told(begun - self._ended, at - begun)

    async def _paused(self, full: asyncio.Event) -> None:
        left = self._ended + self._pace.pause - self._clock()
        if left > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await full.wait()

    async def _granted(self, kind: Turn, payer: str) -> None:
        if not self._busy:
            self._begin(kind)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[kind].setdefault(payer, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._pass_on()  # it was given to one who leaves in this moment
            raise

    def _begin(self, kind: Turn) -> None:
        self._busy, self._since = True, self._clock()
        self._now = kind
        if kind is not Turn.OWN:
            self._last = kind

    def _pass_on(self) -> None:
        order = (Turn.RENEWAL, Turn.KEY, Turn.TREE) if self._last is Turn.TREE else (Turn.TREE, Turn.RENEWAL, Turn.KEY)
        for kind in (Turn.OWN, *order):
            while turn := self._popped(self._queues[kind]):
                if not turn.done():
                    self._begin(kind)
                    turn.set_result(None)
                    return
        self._busy = False

    @staticmethod
    def _popped(queues: Queues) -> asyncio.Future[None] | None:
        """The first of the user whose turn it is, who goes to the end of the line."""
        for payer in tuple(queues):
            queue = queues.pop(payer)
            turn = queue.popleft()
            if queue:
                queues[payer] = queue
            return turn
        return None
