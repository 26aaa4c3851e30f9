"""One figure: a value, the bar it is held against, the peer it was measured beside. Table and JSON."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agent import __version__


@dataclass(frozen=True, slots=True)
class Figure:
    """``value`` in ``unit``; ``bar`` is what DESIGN.md section 9 asks for (None: nothing), ``at_least`` how."""

    name: str
    value: float
    unit: str
    bar: float | None
    at_least: bool
    peer: str
    detail: str

    @property
    def met(self) -> bool | None:
        """None where nothing is asked for."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def document(self) -> dict[str, object]:
        return {**asdict(self), "met": self.met}


def rate(work: Callable[[], object], seconds: float) -> float:
    """Calls of ``work`` per second, over at least ``seconds``."""
    count, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        work()
        count += 1
    return count / spent


def paired(ours: Callable[[], float], peer: Callable[[], float], rounds: int = 5) -> tuple[float, float, float]:
    """Median of ours, of the peer, and of the ratio ours/peer, measured in turn: these machines are noisy."""
    pairs = [(ours(), peer()) for _ in range(rounds)]
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return mine, theirs, statistics.median(a / b for a, b in pairs)


def table(figures: Sequence[Figure]) -> str:
    """The figures as aligned lines."""
    lines = []
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        verdict = "met" if figure.met else "MISSED"
        bar = "no bar           " if figure.bar is None else f"{sign} {figure.bar:<7g} {verdict:<6}"
        lines.append(f"{figure.name:<34} {figure.value:10.3f} {figure.unit:<6} {bar}  {figure.detail}")
    return "\n".join(lines) + "\n"


def write(figures: Sequence[Figure], path: Path) -> None:
    """build/bench.json."""
    document = {
        "figures": [figure.document() for figure in figures],
        "machine": f"{platform.machine()}, {platform.release()}, Python {platform.python_version()}",
        "version": __version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
