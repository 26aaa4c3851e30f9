"""A selector that looks for a moment longer before it sleeps, while sleeping does not pay.

To put a processor to sleep and have it woken takes longer than a signature, in a virtual machine above all. A client
that asks one thing after the other would wait for that every time. So after a sleep that was shorter than WINDOW the
next one begins with a look at the sockets, over and over, for no longer than WINDOW. An idle process never looks.
"""

from __future__ import annotations

import os
import selectors
import time

WINDOW_SECONDS = 0.0001


class EagerSelector(selectors.EpollSelector):
    """As its base. Where there is one processor it only sleeps: whoever is waited for needs that processor."""

    def __init__(self) -> None:
        super().__init__()
        self._alone = len(os.sched_getaffinity(0)) == 1
        self._eager = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready, within ``timeout`` seconds; None waits for ever, 0 and less does not wait."""
        look = super().select
        if timeout is not None and timeout <= WINDOW_SECONDS:
            return look(timeout)
        began = time.monotonic()
        while self._eager and time.monotonic() - began < WINDOW_SECONDS:
            if found := look(0):
                return found
        found = look(timeout)
        self._eager = not self._alone and time.monotonic() - began < WINDOW_SECONDS
        return found
