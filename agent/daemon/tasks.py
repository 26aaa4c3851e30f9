"""Work that goes on when who asked for it has left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from agent.core.errors import DeadlineExceeded

T = TypeVar("T")


class Tasks:
    """Holds each task until it is done: the event loop itself does not."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """``work`` as a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Who asked may have left: then nobody else looks at the error.
        if not task.cancelled():
            task.exception()


async def within(seconds: float, task: asyncio.Task[T]) -> T:
    """Its outcome, for as long as one may wait; the work itself goes on. Raises DeadlineExceeded, and as the task."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(task)
    except TimeoutError as error:
        raise DeadlineExceeded("the key's evidence did not come in time", hint="ask again") from error
