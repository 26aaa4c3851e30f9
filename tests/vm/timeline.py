"""Where a boot's seconds went, by the guest's own clocks: seconds since its kernel started."""

from __future__ import annotations

from typing import Any

from tests.vm.play import Played


def lines(played: Played) -> list[str]:
    """One line per mark, in order."""
    marks = sorted(marks_of(played.report).items(), key=lambda mark: mark[1])
    return [f"{seconds:7.2f} s  {name}" for name, seconds in marks]


def marks_of(report: dict[str, Any]) -> dict[str, float]:
    """Seconds by name, of one judge's report: early boot's own marks, and those of systemd. Zero is "never"."""
    early = report.get("boot", {}).get("report") or {}
    found = {**report.get("times", {}), **early.get("timeline", {})}
    return {name: float(seconds) for name, seconds in found.items() if seconds}
