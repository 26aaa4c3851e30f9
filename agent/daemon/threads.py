"""Blocking calls beside the event loop, in threads that nobody waits for when the process is to end.

How many there are at a time is for each caller to bound, by a lock, by turns (agent.daemon.budget) or by ``places``:
a process has 64 (TasksMax), and whoever could use them up would keep evidence from being renewed. One bound for all
would be no better, for who waits for another process or a disk would hold up the rest.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from agent.core.errors import ServerError, TeeAgentError

NONE_LEFT = "server.threads"

T = TypeVar("T")


async def in_thread(function: Callable[[], T], places: asyncio.Semaphore | None = None) -> T:
    """What ``function`` returns, or the TeeAgentError that it raises, from a thread of its own.

    asyncio's own threads are joined at the end of the loop: an answer that never comes would hold up SIGTERM.
    Any other exception is a defect: the thread prints it, and the caller gets a TeeAgentError.
    ``places`` bounds threads: who finds none waits, in order. A place is free when its thread has ended, though its
    caller may have left before. ``function`` must not wait for a thread of the same places.
    Raises ServerError (``server.threads``) where the system has no thread left.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    if places:
        await places.acquire()

    def settle(method: Callable[[], None]) -> None:
        if places:
            places.release()
        if not done.done():
            method()

    def work() -> None:
        outcome = partial(done.set_exception, TeeAgentError("a defect of the agent: its log has more"))
        try:
            outcome = partial(done.set_result, function())
        except TeeAgentError as error:
            outcome = partial(done.set_exception, error)
        finally:
            # The loop may be gone already.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, outcome)

    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError:
        settle(partial(done.set_exception, _none_left()))
    return await done


async def in_thread_or_here(function: Callable[[], T], places: asyncio.Semaphore | None = None) -> T:
    """The same, and in this thread where the system has none left: for what must happen, though others wait for it."""
    try:
        return await in_thread(function, places)
    except ServerError as error:
        if error.code != NONE_LEFT:
            raise
        return function()


def _none_left() -> ServerError:
    return ServerError("no thread could be started", hint="TasksMax, RLIMIT_NPROC", retry_after=1.0, code=NONE_LEFT)
