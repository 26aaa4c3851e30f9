"""What the audit log counts instead of telling one by one: signatures, and what comes too often from one caller.

Bounded whoever calls: MAX_ROWS rows at a time, and what is beyond them is counted together.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from agent.core.audit import SEVERITIES

BURST = 8
"""Told one by one to begin with, of each source."""
REFILL_SECONDS = 10.0
"""And one more after so long."""
MAX_ROWS = 512

K = TypeVar("K", bound=Hashable)


class Counts(Generic[K]):
    """Events by key until they are taken; ``others`` is the key of all that find no room. For any thread."""

    def __init__(self, others: K) -> None:
        self._others = others
        self._counts: Counter[K] = Counter()
        self._lock = threading.Lock()

    def add(self, key: K, count: int = 1) -> None:
        with self._lock:
            self._counts[key if key in self._counts or len(self._counts) < MAX_ROWS else self._others] += count

    def take(self) -> dict[K, int]:
        """What was counted since the last time."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return dict(taken)


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Flood(Generic[K]):
    """Says which events may be told one by one: BURST of each source, then one in REFILL_SECONDS."""

    def __init__(self) -> None:
        self._buckets: dict[K, _Bucket] = {}

    def admits(self, source: K, now: float) -> bool:
        """``now`` in monotonic seconds. A source that finds no room in the table is not told one by one."""
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= MAX_ROWS and not self._forget(now):
                return False
            bucket = self._buckets[source] = _Bucket(BURST, now)
        bucket.left = min(BURST, bucket.left + (now - bucket.at) / REFILL_SECONDS)
        bucket.at = now
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True

    def _forget(self, now: float) -> bool:
        """Drop sources that have been silent until their burst was theirs again. True when there is room now."""
        old = now - BURST * REFILL_SECONDS
        self._buckets = {source: bucket for source, bucket in self._buckets.items() if bucket.at > old}
        return len(self._buckets) < MAX_ROWS


class Hour:
    """How many records of each severity the last hour has, in minutes. Not for several threads."""

    def __init__(self) -> None:
        self._minutes: dict[datetime, Counter[str]] = {}

    def add(self, at: datetime, severity: str) -> None:
        """``at`` is the record's time; the clock may have been set since."""
        self._minutes.setdefault(at.replace(second=0, microsecond=0), Counter())[severity] += 1
        if len(self._minutes) > 2 * 60:
            for minute in sorted(self._minutes)[:60]:
                del self._minutes[minute]

    def counts(self, now: datetime) -> dict[str, int]:
        """By severity, all of them."""
        recent = [counts for minute, counts in self._minutes.items() if now - timedelta(hours=1) < minute <= now]
        return {severity: sum(counts[severity] for counts in recent) for severity in SEVERITIES}
