"""Live nonces, in memory: they are the running server's alone and end with it.

A nonce lives for a bounded time and is consumed once: of any number of concurrent requests with the same nonce
exactly one gets it. Only the validated form is ever looked up.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

from agent.core.errors import ServerError
from agent.core.model import Nonce

NONCE_SECONDS = 120
MAX_NONCES = 20_000
"""Live nonces at the most: at the default rate limit one client can hold some 800, over both routes."""


def boot_time() -> float:
    """Seconds that also pass while the machine sleeps, and that nobody can set back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Nonces:
    """For any thread; nothing here waits for a disk or for a verification."""

    def __init__(self, clock: Callable[[], float] = boot_time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._expires: dict[str, float] = {}
        """The oldest first, since all live equally long."""

    def new(self) -> Nonce:
        """A fresh one, alive for NONCE_SECONDS. Raises ServerError when MAX_NONCES are alive."""
        nonce = Nonce(secrets.token_hex(32))
        with self._lock:
            now = self._clock()
            while self._expires and self._expires[oldest := next(iter(self._expires))] <= now:
                del self._expires[oldest]
            if len(self._expires) >= MAX_NONCES:
                raise ServerError(f"{MAX_NONCES} nonces are alive", retry_after=NONCE_SECONDS / 4, code="server.nonces")
            self._expires[nonce.text] = now + NONCE_SECONDS
        return nonce

    def consume(self, nonce: Nonce) -> bool:
        """True exactly once for each nonce that is alive."""
        with self._lock:
            return self._expires.pop(nonce.text, 0.0) > self._clock()
