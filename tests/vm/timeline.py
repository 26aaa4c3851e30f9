"""Where a boot's seconds went, by the guest's own clocks: seconds since its kernel started."""

from __future__ import annotations

from typing import Any

from tests.vm.play import Played


def lines(played: Played) -> list[str]:
    """One line per mark, in order."""
    marks = sorted(_marks(played.report))
    marks += [(seconds, f"{text} (host's clock)") for seconds, text in played.marks]
    return [f"{seconds:7.2f} s  {text}" for seconds, text in marks]


def _marks(report: dict[str, Any]) -> list[tuple[float, str]]:
    found = [(seconds, name) for name, seconds in report.get("times", {}).items() if isinstance(seconds, float) and seconds]
    early = (report.get("boot", {}).get("report") or {}).get("timeline", {})
    return found + ([(float(seconds), name) for name, seconds in early.items()] if isinstance(early, dict) else [])
