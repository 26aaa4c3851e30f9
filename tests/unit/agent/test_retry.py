"""Trying again, on a clock that only moves in sleep."""

from __future__ import annotations

from collections import deque

import pytest

from agent.core.backoff import Backoff
from agent.core.errors import DeadlineExceeded, Denied, FirmwareBusy, ServerError, TeeAgentError
from agent.deadline import Deadline
from agent.retry import persist
from tests.support.clock import FakeClock


class Calls:
    """Raises or returns what it was given, in that order; each call takes ``seconds``."""

    def __init__(self, clock: FakeClock, *outcomes: TeeAgentError | int, seconds: float = 0.0) -> None:
        self.clock = clock
        self.left = deque(outcomes)
        self.seconds = seconds

    def __call__(self) -> int:
        self.clock.now += self.seconds
        outcome = self.left.popleft()
        if isinstance(outcome, TeeAgentError):
            raise outcome
        return outcome


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def tried(calls: Calls, seconds: float = 60.0, attempts: int | None = None) -> int:
    deadline = Deadline(seconds, "work", calls.clock)
    return persist(calls, deadline, Backoff(1.0, 8.0), attempts=attempts, chance=lambda: 1.0)


def test_pauses_only_between_tries(clock: FakeClock) -> None:
    assert tried(Calls(clock, 5)) == 5
    assert clock.sleeps == []
    busy = FirmwareBusy("busy")
    assert tried(Calls(clock, busy, busy, busy, busy, busy, 6)) == 6
    assert clock.sleeps == [1.0, 2.0, 4.0, 8.0, 8.0]


def test_the_peers_wish_is_a_least(clock: FakeClock) -> None:
    assert tried(Calls(clock, ServerError("wait", retry_after=7), ServerError("wait", retry_after=0.5), 1)) == 1
    assert clock.sleeps == [7.0, 2.0]


def test_final_errors_come_through(clock: FakeClock) -> None:
    denied = Denied("no")
    with pytest.raises(Denied) as caught:
        tried(Calls(clock, FirmwareBusy("busy"), denied, 1))
    assert caught.value is denied


def test_attempts(clock: FakeClock) -> None:
    calls = Calls(clock, ServerError("a"), ServerError("b"), 1)
    with pytest.raises(ServerError, match="b"):
        tried(calls, attempts=2)
    assert clock.sleeps == [1.0]


def test_a_pause_that_would_pass_the_deadline_is_not_begun(clock: FakeClock) -> None:
    last = ServerError("down", retry_after=100, hint="look there")
    with pytest.raises(DeadlineExceeded, match=r"^work: not done within 60 s; 1 failed, the last: down$") as caught:
        tried(Calls(clock, last, 1))
    assert caught.value.__cause__ is last
    assert caught.value.hint == "look there"
    assert clock.now == 0


def test_a_deadline_that_passes_in_a_later_call_names_the_failure_before(clock: FakeClock) -> None:
    calls = Calls(clock, FirmwareBusy("busy"), DeadlineExceeded("evidence: late"))
    with pytest.raises(DeadlineExceeded, match="evidence: late; 1 failed, the last: busy"):
        tried(calls)


def test_a_deadline_in_the_first_call_is_its_own_reason(clock: FakeClock) -> None:
    late = DeadlineExceeded("evidence: late")
    with pytest.raises(DeadlineExceeded) as caught:
        tried(Calls(clock, late))
    assert caught.value is late
