"""When to ask for the next quote: learnt from hosts of several kinds, in seconds that nobody waits for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.daemon.pace import AGAIN, MOST, Pace

Host = Callable[[float, float], float]
"""When a quote comes that is asked for at a time, the last one having come at another."""


def rationed(asked: float, last: float) -> float:
    """One a second, whenever it is asked for."""
    return max(asked + 0.01, last + 1.0)


def slow(asked: float, _: float) -> float:
    """A second for each."""
    return asked + 1.0


def fast(asked: float, _: float) -> float:
    return asked + 0.04


def over(host: Host, quotes: int, pace: Pace | None = None) -> list[tuple[float, float]]:
    """The pauses, and when each quote came after the one before; somebody always wants the next one."""
    pace, last, found = pace or Pace(), 100.0, []
    for _ in range(quotes):
        asked = last + pace.pause
        came = host(asked, last)
        found.append((asked - last, came - last))
        pace.told(asked - last, came - asked)
        last = came
    return found


def test_where_quotes_are_rationed_trees_close_late_and_no_quote_comes_later() -> None:
    found = over(rationed, 200)
    assert all(period == pytest.approx(1.0) for _, period in found)
    pauses = [pause for pause, _ in found]
    assert pauses[:4] == [0.0] * 4
    assert max(pauses) == pytest.approx(MOST)
    assert sum(pause > 0.7 for pause in pauses) > 150


def test_where_every_quote_takes_its_time_a_pause_is_tried_now_and_then_and_given_up() -> None:
    found = over(slow, 200)
    assert sum(period for _, period in found) < 200 * 1.02
    tried = [pause for pause, _ in found if pause]
    assert 2 <= len(tried) <= 200 / AGAIN
    assert max(tried) == pytest.approx(0.2)


def test_fast_hosts_are_asked_at_once() -> None:
    assert {pause for pause, _ in over(fast, 100)} == {0.0}


def test_a_host_that_becomes_faster_is_noticed() -> None:
    pace = Pace()
    over(rationed, 50, pace)
    assert pace.pause > 0
    over(fast, 2 * AGAIN, pace)
    assert pace.pause == 0


def test_a_host_that_becomes_slow_is_noticed_at_the_next_quote() -> None:
    pace = Pace()
    over(rationed, 20, pace)
    found = over(slow, 2, pace)
    assert (found[0][0] > 0, found[1][0]) == (True, 0)


def test_stalls_teach_nothing() -> None:
    pace = Pace()
    for _ in range(20):
        for took in (*[0.2] * 3, 10.0):
            pace.told(0.0, took)
    assert pace.pause == 0


def test_quotes_that_nobody_was_waiting_for_teach_nothing() -> None:
    pace = Pace()
    for _ in range(20):
        pace.told(5.0, 1.0)
    assert pace.pause == 0
    over(rationed, 10, pace)
    before = pace.pause
    pace.told(5.0, 1.0)
    assert pace.pause == before > 0
