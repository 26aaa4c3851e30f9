"""How long to wait before trying again: full jitter, so that a fleet that failed together does not return together.

Pure: the attempt number and a given random number in, seconds out. Nothing here sleeps.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits grow from ``base`` by doubling to ``cap``; the wait is any part of that, evenly. All in seconds."""

    base: float
    cap: float

    def ceiling(self, attempt: int) -> float:
        """The longest wait after failed try number ``attempt`` (the first is 0)."""
        return min(self.cap, self.base * 2.0 ** min(attempt, 64))

    def delay(self, attempt: int, chance: float, at_least: float = 0.0) -> float:
        """The wait for a random ``chance`` in [0, 1); ``at_least`` is the peer's own wish."""
        return max(at_least, chance * self.ceiling(attempt))
