"""One deadline per operation, counted on the monotonic clock: shared by every step, never restarted."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from agent.core import ports
from agent.core.errors import DeadlineExceeded
from agent.core.ports import Clock

T = TypeVar("T")


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


def part(deadline: ports.Deadline, seconds: float, what: str, clock: Clock | None = None) -> Deadline:
    """The sooner of ``deadline`` and ``seconds`` from now, under a name of its own."""
    return Deadline(min(seconds, deadline.remaining()), what, clock)


class _Outcome(Generic[T]):
    """What a call in another thread came to: a value or an exception, handed over once."""

    def __init__(self) -> None:
        self._values: list[T] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()

    def of(self, call: Callable[[], T]) -> None:
        with self:
            self._values.append(call())

    def get(self, seconds: float) -> list[T]:
        """The value in a list, or an empty one when it is not there in time. Raises the call's own exception."""
        if self._ended.wait(seconds) and self._error is not None:
            raise self._error
        return list(self._values)

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> bool:
        self._error = error
        self._ended.set()
        return True


def within(deadline: ports.Deadline, what: str, call: Callable[[], T]) -> T:
    """``call()`` in a thread of its own, waited for until the deadline; its own exception comes through.

    For calls that the kernel may hold as long as it likes. The call is always started; when the deadline passes the
    caller gets DeadlineExceeded, and the call goes on to its own end, which must clean up by itself. Signals stay
    with the other threads: one that ended a firmware request half way would block the firmware for everybody.
    """
    outcome: _Outcome[T] = _Outcome()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        threading.Thread(target=outcome.of, args=(call,), name=what, daemon=True).start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    seconds = deadline.remaining()
    values = outcome.get(seconds)
    if not values:
        raise DeadlineExceeded(f"{what}: no answer after {seconds:.1f} s")
    return values[0]
