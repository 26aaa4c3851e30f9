"""Work that goes on when who asked for it has left, and work that may not end before the process does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from agent.core.errors import DeadlineExceeded, TeeAgentError

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
        # Who asked may have left: then nobody else looks at the error. A defect is told even so.
        if not task.cancelled() and not isinstance(error := task.exception(), TeeAgentError | None):
            told = {"message": "a defect of the agent", "exception": error, "task": task}
            task.get_loop().call_exception_handler(told)


async def within(seconds: float, task: asyncio.Task[T]) -> T:
    """Its outcome, for as long as one may wait; the work itself goes on. Raises DeadlineExceeded, and as the task."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(task)
    except TimeoutError as error:
        raise DeadlineExceeded("the key's evidence did not come in time", hint="ask again") from error


async def until_stopped(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Until told to stop. A task that ends of itself is a defect that ends the process: its error, or TeeAgentError."""
    told = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    for task in done - {told}:
        task.result()
        raise TeeAgentError("a part of this process came to its end: its log has more")
