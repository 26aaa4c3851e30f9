"""Real cgroups for real processes: made as systemd and the runtimes make them, removed afterwards."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.waiting import awaited


def hierarchy() -> Path:
    """Where the unified hierarchy is mounted; skips where there is none that we may write to."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2" and os.access(before.split()[4], os.W_OK) and os.geteuid() == 0:
            return Path(before.split()[4])
    pytest.skip("needs root and a cgroup tree of version 2")


@contextmanager
def cgroup(path: str) -> Iterator[Path]:
    """The cgroup ``path`` (below the root), with all that leads to it; what was made is removed."""
    root = hierarchy()
    made = []
    try:
        for depth in range(len(parts := path.strip("/").split("/"))):
            folder = root.joinpath(*parts[: depth + 1])
            if not folder.is_dir():
                folder.mkdir()
                made.append(folder)
        yield folder
    finally:
        for folder in reversed(made):
            awaited(partial(_removed, folder))


def _removed(folder: Path) -> bool:
    """Newer kernels let go of a process a moment after somebody has waited for it."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def inside(folder: Path) -> list[str]:
    """Words before a command that runs in this cgroup."""
    return ["sh", "-c", f'echo $$ >"{folder}/cgroup.procs" && exec "$@"', "sh"]
