"""Back-off and deadlines, without waiting."""

from __future__ import annotations

import pytest

from agent.core.backoff import Backoff
from agent.core.errors import DeadlineExceeded
from agent.deadline import Deadline, part, within
from tests.support.clock import FakeClock


def test_ceilings_double_up_to_the_cap() -> None:
    backoff = Backoff(base=0.5, cap=8.0)
    assert [backoff.ceiling(attempt) for attempt in range(6)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert backoff.ceiling(10**9) == 8.0


def test_delay_is_full_jitter_and_respects_the_peers_wish() -> None:
    backoff = Backoff(base=1.0, cap=8.0)
    assert backoff.delay(2, 0.0) == 0.0
    assert backoff.delay(2, 0.25) == 1.0
    assert backoff.delay(2, 0.25, at_least=3.0) == 3.0
    assert backoff.delay(2, 0.9, at_least=3.0) == pytest.approx(3.6)


def test_part_is_the_sooner() -> None:
    clock = FakeClock()
    whole = Deadline(10, "whole", clock)
    assert part(whole, 3, "step", clock).remaining() == 3
    clock.sleep(9)
    assert part(whole, 3, "step", clock).remaining() == 1
    clock.sleep(1)
    with pytest.raises(DeadlineExceeded, match="whole"):
        part(whole, 3, "step", clock)


def test_within_hands_over_value_and_exception() -> None:
    assert within(Deadline(30, "t"), "work", lambda: 5) == 5
    assert within(Deadline(30, "t"), "work", lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        within(Deadline(30, "t"), "work", lambda: 1 // 0)


def test_within_gives_up_but_the_call_goes_on() -> None:
    import threading

    release, ended = threading.Event(), threading.Event()

    def call() -> None:
        release.wait()
        ended.set()

    with pytest.raises(DeadlineExceeded, match="stalled"):
        within(Deadline(0.05, "t", FakeClock()), "stalled", call)
    release.set()
    assert ended.wait(30)


def test_within_keeps_signals_away_from_the_call() -> None:
    import signal

    blocked = within(Deadline(30, "t"), "work", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} <= blocked
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
