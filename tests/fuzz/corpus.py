"""The kept corpus: few small inputs per target that together take every way through the parsers that was found.

libFuzzer keeps what has new features, which are thousands; of these, a greedy cover over pairs of lines (from where to
where) inside our packages decides. No input that came out of genuine vectors gets here.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.contract import hold
from tests.fuzz.run import KEPT, REPOSITORY, grown
from tests.fuzz.targets import TARGETS

MOST = 12
"""Inputs kept per target."""
LONGEST = 24 << 10
"""Bytes of a kept input."""
_OURS = tuple(str(REPOSITORY / name) for name in ("agent", "snp", "tdx", "tas"))
Arc = tuple[str, int, int]


def kept() -> Iterator[tuple[str, Path]]:
    """Target's name and file of every kept input."""
    for folder in sorted(KEPT.iterdir()):
        for path in sorted(folder.iterdir()):
            yield folder.name, path


def keep(name: str) -> int:
    """Replace a target's kept inputs by a cover of everything grown so far; how many they are."""
    inputs = (path.read_bytes() for path in sorted(grown(name, vectors=False).iterdir()))
    reached = {data: arcs(name, data) for data in inputs if len(data) <= LONGEST}
    folder = KEPT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    chosen = cover(reached)
    for number, data in enumerate(chosen):
        (folder / f"{number:02}").write_bytes(data)
    return len(chosen)


def cover(reached: dict[bytes, frozenset[Arc]]) -> list[bytes]:
    """At most MOST inputs, each time the one that adds most; of equals the shorter."""
    left, chosen = dict(reached), list[bytes]()
    seen: set[Arc] = set()
    while left and len(chosen) < MOST:
        best = max(left, key=lambda data: (len(left[data] - seen), -len(data)))
        new = left.pop(best) - seen
        if not new:
            break
        seen |= new
        chosen.append(best)
    return chosen


def arcs(name: str, data: bytes) -> frozenset[Arc]:
    """The pairs of lines of ours that one input goes through."""
    found: set[Arc] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        file, before = frame.f_code.co_filename, 0
        if not file.startswith(_OURS):
            return None

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            found.add((file, before, frame.f_lineno))
            before = frame.f_lineno
            return line

        return line

    sys.settrace(trace)
    try:
        hold(TARGETS[name], data)
    finally:
        sys.settrace(None)
    return frozenset(found)
