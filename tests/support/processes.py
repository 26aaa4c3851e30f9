"""Processes as the kernel shows them: who their children are, and when they end."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.support.waiting import PATIENCE, awaited


def children(pid: int) -> list[int]:
    """Of its first thread; none of a process that is gone."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def name(pid: int) -> str:
    """What ps shows beside the command line."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """It stands still, all its threads: what is read of it meanwhile is of one moment."""
    os.kill(pid, signal.SIGSTOP)
    try:
        awaited(lambda: _states(pid), lambda found: found and found <= {"T", "Z", "X"})
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _states(pid: int) -> set[str]:
    """Of its threads (proc(5), /proc/PID/stat); none where one ended meanwhile."""
    try:
        texts = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {text.rpartition(")")[2].split()[0] for text in texts}


class Held:
    """A process that is watched: its number is its own until this is closed."""

    def __init__(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)

    def ended(self, seconds: float = 0) -> bool:
        return bool(select.select([self._pidfd], [], [], seconds)[0])

    def gone(self) -> bool:
        """The same, with patience."""
        return self.ended(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pidfd)
