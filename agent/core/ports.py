"""The seams between deciding and doing. Adapters implement these; tests plug in here."""

from __future__ import annotations

from typing import Protocol

from agent.core.model import Evidence, ReportData


class QuoteSource(Protocol):
    """Gives evidence over REPORT_DATA. One quote at a time, machine-wide.

    Raises PlatformError, FirmwareError (``retry`` says whether asking again may help), DeadlineExceeded.
    """

    def quote(self, report_data: ReportData, *, deadline: Deadline) -> Evidence: ...


class Clock(Protocol):
    """Monotonic seconds, and sleep."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class Transport(Protocol):
    """One authenticated peer, one request at a time.

    Raises TransportError (retry says whether), TlsError, TooLarge, DeadlineExceeded. Never follows redirects.
    """

    def request(
        self, method: str, path: str, *, headers: dict[str, str], body: bytes, max_bytes: int, deadline: Deadline
    ) -> Response: ...


class Response(Protocol):
    """A complete answer, bounded by ``max_bytes``. Header names are lower case."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> dict[str, str]: ...
    @property
    def body(self) -> bytes: ...


class Deadline(Protocol):
    """One instant that everything in an operation shares (agent.deadline.Deadline is the real one)."""

    def remaining(self) -> float:
        """Seconds left. Raises DeadlineExceeded when there are none."""
        ...

    def sleep(self, seconds: float) -> None:
        """Sleep, but not past the deadline: raises DeadlineExceeded at once when it would be passed."""
        ...
