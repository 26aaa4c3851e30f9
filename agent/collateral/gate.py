"""When each vendor's host may be asked again: kept in a file, so that the next process waits too.

AMD's service answers about one VCEK request in ten seconds per address, and says 429 otherwise; any host may say how
long it wants to be left alone (Retry-After). Wall-clock time, since it must outlive the process: a time too far ahead
to be true (the clock was set back) counts for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from agent.collateral.files import read_bounded, write_atomically
from agent.core.errors import ServerError
from agent.core.ports import Deadline

MAX_HOLD = 3600.0
"""Seconds: no wish of a host is believed beyond this."""
MAX_BYTES = 64 * 1024
MAX_HOSTS = 256


class Gate:
    """Used under the cache's lock: two processes take turns."""

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        self._path = path
        self._now = now

    def wait(self, host: str, deadline: Deadline) -> None:
        """Sleep until ``host`` may be asked. Raises ServerError at once where that is beyond the deadline."""
        seconds = self._load().get(host, 0.0) - self._now().timestamp()
        if not 0 < seconds <= MAX_HOLD:
            return
        if seconds >= deadline.remaining():
            raise ServerError(
                f"{host} is not to be asked before {seconds:.0f} s from now",
                hint="its rate is limited: run this again then, or allow more seconds",
                retry_after=seconds,
                code="server.rate",
            )
        deadline.sleep(seconds)

    def hold(self, host: str, seconds: float) -> None:
        """Nobody asks ``host`` for so many seconds; an earlier, longer wish stands."""
        now = self._now().timestamp()
        known = {name: until for name, until in self._load().items() if now < until <= now + MAX_HOLD}
        known[host] = max(known.get(host, 0.0), now + min(seconds, MAX_HOLD))
        newest = dict(sorted(known.items(), key=lambda row: row[1])[-MAX_HOSTS:])
        write_atomically(self._path, json.dumps(newest).encode())

    def _load(self) -> dict[str, float]:
        """What the file says; a damaged file says nothing."""
        try:
            document = json.loads(read_bounded(self._path, MAX_BYTES) or b"{}")
        except (ValueError, RecursionError):
            return {}
        rows = document.items() if isinstance(document, dict) else ()
        return {name: float(until) for name, until in rows if type(until) in (int, float) and abs(until) < 1e12}
