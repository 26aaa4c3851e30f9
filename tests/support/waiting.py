"""Patience: a test that waits looks over and over, and says what it saw last when what it waits for never comes.

A test waits for an event, never for a moment; PATIENCE costs nothing when all goes well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 120.0
"""Seconds before a test that waits fails: more than anything takes on a busy machine, less than a test's own timeout."""
PAUSE, SHORT = 0.02, 0.001
"""Seconds between two looks: of a thread, and in an event loop."""

T = TypeVar("T")
# A test may give the code that it tests others.
_sleep, _monotonic = asyncio.sleep, time.monotonic


def awaited(look: Callable[[], T], good: Callable[[T], object] = bool) -> T:
    """What ``look`` finds, once that is ``good``. Raises AssertionError with what it found last."""
    end = _monotonic() + PATIENCE
    while not good(found := look()):
        assert _monotonic() < end, f"it never came; found last: {found!r}"
        time.sleep(PAUSE)
    return found


async def until(look: Callable[[], object]) -> None:
    """Until ``look`` finds something, while the event loop goes on. Raises AssertionError with what it found last."""
    end = _monotonic() + PATIENCE
    while not (found := look()):
        assert _monotonic() < end, f"it never came; found last: {found!r}"
        await _sleep(SHORT)
