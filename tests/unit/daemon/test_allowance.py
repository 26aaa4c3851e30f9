"""How many secrets may be asked for: by one user, by all, at a time and in time."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from agent.core.errors import ServerError
from agent.daemon.allowance import EACH, TOTAL, Allowance, Rate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def asked(allowance: Allowance, uid: int, count: int) -> int:
    """How many of ``count`` requests one after the other were let in."""
    good = 0
    for _ in range(count):
        try:
            with allowance.place(uid):
                good += 1
        except ServerError as error:
            assert (error.code, error.retry_after >= 1) == ("server.budget", True)
    return good


def test_a_burst_then_one_in_a_while() -> None:
    clock = Clock()
    allowance = Allowance(Rate(3, 10.0, 9), Rate(100, 0.1, 9), clock)
    assert asked(allowance, 1, 5) == 3
    clock.now += 9.9
    assert asked(allowance, 1, 1) == 0
    clock.now += 0.2
    assert asked(allowance, 1, 2) == 1
    clock.now += 1000
    assert asked(allowance, 1, 5) == 3


def test_the_wait_is_said() -> None:
    clock = Clock()
    allowance = Allowance(Rate(1, 10.0, 9), Rate(100, 0.1, 9), clock)
    assert asked(allowance, 1, 1) == 1
    clock.now += 3
    with pytest.raises(ServerError) as caught, allowance.place(1):
        pass
    assert caught.value.retry_after == 7


def test_one_user_s_requests_are_not_another_s() -> None:
    allowance = Allowance(clock=Clock())
    assert asked(allowance, 1, 1000) == EACH.burst
    assert asked(allowance, 2, 1) == 1
    # What was refused costs nothing: all that is left is there for others.
    assert sum(asked(allowance, uid, 100) for uid in range(3, 60)) == TOTAL.burst - EACH.burst - 1


def test_at_a_time() -> None:
    allowance = Allowance(Rate(100, 1.0, 2), Rate(100, 1.0, 3), Clock())
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(allowance.place(1))
        assert asked(allowance, 1, 1) == 0
        stack.enter_context(allowance.place(2))
        assert asked(allowance, 3, 1) == 0
    assert asked(allowance, 1, 1) == asked(allowance, 3, 1) == 1


def test_a_place_is_free_again_after_a_failure() -> None:
    allowance = Allowance(Rate(100, 1.0, 1), Rate(100, 1.0, 1), Clock())
    with pytest.raises(KeyError), allowance.place(1):
        raise KeyError
    assert asked(allowance, 1, 1) == 1


def test_who_has_not_asked_for_a_while_is_forgotten() -> None:
    clock = Clock()
    allowance = Allowance(clock=clock)
    for uid in range(200):
        asked(allowance, uid, 1)
        clock.now += 60
    assert len(allowance._meters) == 1
    assert len(allowance._held) <= 1
