"""One deadline per operation, counted on the monotonic clock: shared by every step, never restarted."""

from __future__ import annotations

import time

from agent.core.errors import DeadlineExceeded
from agent.core.ports import Clock


class SystemClock:
    """The kernel's monotonic clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Deadline:
    """``seconds`` from now; ``what`` names the operation in the error."""

    def __init__(self, seconds: float, what: str, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._end = self._clock.monotonic() + seconds
        self.seconds = seconds
        self.what = what

    def remaining(self) -> float:
        left = self._end - self._clock.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"{self.what}: not done within {self.seconds:g} s")
        return left

    def sleep(self, seconds: float) -> None:
        if seconds >= self.remaining():
            raise DeadlineExceeded(f"{self.what}: not done within {self.seconds:g} s")
        self._clock.sleep(seconds)
