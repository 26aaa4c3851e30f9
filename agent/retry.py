"""Trying again: what may help by its own word, with growing pauses, until one deadline that names the last failure."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from agent.core.backoff import Backoff
from agent.core.errors import DeadlineExceeded, ServerError, TeeAgentError
from agent.core.ports import Deadline

T = TypeVar("T")
CHANCE = random.SystemRandom().random
"""Random numbers in [0, 1) for the pauses."""


def persist(
    call: Callable[[], T],
    deadline: Deadline,
    pauses: Backoff,
    *,
    attempts: int | None = None,
    chance: Callable[[], float] = CHANCE,
) -> T:
    """What ``call`` returns, tried again after errors whose ``retry`` is True; ``attempts`` bounds the tries.

    Raises the final error, the last one when the tries are used up, or DeadlineExceeded with the last one named.
    """
    tries = 0
    failure: TeeAgentError | None = None
    while True:
        try:
            if failure is not None:
                wish = failure.retry_after if isinstance(failure, ServerError) else 0.0
                deadline.sleep(pauses.delay(tries - 1, chance(), wish))
            return call()
        except DeadlineExceeded as error:
            if failure is None:
                raise
            message = f"{error.message}; {tries} failed, the last: {failure.message}"
            raise DeadlineExceeded(message, hint=failure.hint) from failure
        except TeeAgentError as error:
            tries += 1
            if not error.retry or tries == attempts:
                raise
            failure = error
