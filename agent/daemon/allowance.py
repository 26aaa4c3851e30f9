"""How many secrets may be asked for: each costs a piece of evidence, and a conversation with the service.

Bounded for each user and over all, at a time and in time; one user who asks without end keeps nobody else waiting.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.core.errors import ServerError


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` at once, then one more in every ``seconds``; ``places`` at a time."""

    burst: int
    seconds: float
    places: int


EACH = Rate(burst=8, seconds=5.0, places=4)
TOTAL = Rate(burst=32, seconds=1.0, places=12)
"""Over all: more than one user's share, fewer at a time than the fetcher takes."""


class Meter:
    """What one or all have used. Counts back to nothing by itself: no more than one number."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._full_at = -math.inf

    def wait(self, now: float) -> float:
        """Seconds until one more may be asked for, 0.0 for now."""
        return max(0.0, self._full_at - now - (self._rate.burst - 1) * self._rate.seconds)

    def take(self, now: float) -> None:
        self._full_at = max(self._full_at, now) + self._rate.seconds

    def idle(self, now: float) -> bool:
        return self._full_at <= now


class Allowance:
    """``clock`` counts seconds. For one event loop."""

    def __init__(self, each: Rate = EACH, total: Rate = TOTAL, clock: Callable[[], float] = time.monotonic) -> None:
        self._each, self._total, self._clock = each, total, clock
        self._meters: dict[int, Meter] = {}
        self._all = Meter(total)
        self._held: Counter[int] = Counter()

    @contextmanager
    def place(self, uid: int) -> Iterator[None]:
        """One release for this user. Raises ServerError (``server.budget``) with the time to wait."""
        now = self._clock()
        self._forget(now)
        if self._held[uid] >= self._each.places or self._held.total() >= self._total.places:
            raise _refusal("secrets are being released already", 1.0)
        mine = self._meters.setdefault(uid, Meter(self._each))
        if wait := max(mine.wait(now), self._all.wait(now)):
            raise _refusal("secrets were asked for in a short time", wait)
        mine.take(now)
        self._all.take(now)
        self._held[uid] += 1
        try:
            yield
        finally:
            self._held[uid] -= 1

    def _forget(self, now: float) -> None:
        """Of users who have not asked for a while nothing is kept."""
        for uid in [uid for uid, meter in self._meters.items() if meter.idle(now) and not self._held[uid]]:
            del self._meters[uid]
        self._held += Counter()


def _refusal(why: str, wait: float) -> ServerError:
    return ServerError(
        f"too many {why}",
        hint="keep a secret as long as you need it; each release costs evidence",
        retry_after=math.ceil(wait),
        code="server.budget",
    )
