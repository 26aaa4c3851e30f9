"""What the audit log counts: hours, floods, and tables that stay small whoever fills them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agent.daemon import auditcount
from agent.daemon.auditcount import BURST, MAX_ROWS, Counts, Flood, Hour

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def test_the_last_hour_is_counted_by_severity() -> None:
    hour = Hour()
    for minutes, severity in ((90, "alert"), (59, "warning"), (5, "info"), (0, "info"), (-5, "notice")):
        hour.add(NOON - timedelta(minutes=minutes), severity)
    assert hour.counts(NOON) == {"info": 2, "notice": 0, "warning": 1, "alert": 0}
    for minute in range(10_000):
        hour.add(NOON + timedelta(minutes=minute), "info")
    assert hour.counts(NOON + timedelta(minutes=9_999))["info"] == 60
    assert len(hour._minutes) <= 120


def test_a_source_gets_its_burst_back() -> None:
    flood: Flood[int] = Flood()
    assert [flood.admits(1, 0.0) for _ in range(BURST + 2)] == [True] * BURST + [False] * 2
    assert flood.admits(1, auditcount.REFILL_SECONDS)
    assert not flood.admits(1, auditcount.REFILL_SECONDS)
    assert flood.admits(2, auditcount.REFILL_SECONDS)


def test_the_table_of_sources_forgets_silent_ones() -> None:
    flood: Flood[int] = Flood()
    for source in range(MAX_ROWS):
        assert flood.admits(source, 0.0)
    assert not flood.admits(-1, 1.0)
    assert flood.admits(-1, BURST * auditcount.REFILL_SECONDS + 1)


def test_counts_are_bounded() -> None:
    counts: Counts[int] = Counts(-1)
    for number in range(MAX_ROWS + 5):
        counts.add(number)
    counts.add(0)
    taken = counts.take()
    assert (taken[0], taken[-1], len(taken)) == (2, 5, MAX_ROWS + 1)
    assert counts.take() == {}
