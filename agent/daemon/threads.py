"""Blocking calls beside the event loop, in threads that nobody waits for when the process is to end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from agent.core.errors import TeeAgentError

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """What ``function`` returns, or the TeeAgentError that it raises, from a thread of its own.

    asyncio's own threads are joined at the end of the loop: an answer that never comes would hold up SIGTERM.
    Any other exception is a defect: the thread prints it, and the caller gets a TeeAgentError.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(method: Callable[[], None]) -> None:
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

    threading.Thread(target=work, daemon=True).start()
    return await done
