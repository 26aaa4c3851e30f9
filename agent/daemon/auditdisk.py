"""Steps on the audit log's folder: its files, the end of one, and names for what is moved aside."""

from __future__ import annotations

import os
import re
import stat
from itertools import count
from pathlib import Path

from agent.core import audit
from agent.core.audittail import WINDOW, Tail, tail
from agent.core.errors import TeeAgentError

CURRENT, NEW, LOCK = "audit.jsonl", "audit.jsonl.new", "audit.lock"
FULL = re.compile(r"audit-([0-9]{16})\.jsonl", re.ASCII)
FOLDER_MODE = 0o750
APPEND = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


def full_files(folder: Path) -> list[Path]:
    """The files that are written no more, oldest first. Raises OSError."""
    return sorted(path for path in folder.iterdir() if FULL.fullmatch(path.name))


def read_tail(fd: int) -> tuple[Tail, int]:
    """The end of an open file, and its size; of what is no file, nothing. Raises OSError."""
    said = os.fstat(fd)
    if not stat.S_ISREG(said.st_mode):
        return tail(b"", whole=True), 0
    size = said.st_size
    start = max(0, size - WINDOW)
    return tail(os.pread(fd, WINDOW, start), whole=start == 0), size


def first_seq(fd: int, found: Tail) -> int:
    """Of the file's first record; where that can't be read, of the first one in its window. Raises OSError."""
    line = os.pread(fd, audit.MAX_LINE + 1, 0).partition(b"\n")[0]
    try:
        return audit.read(line).seq
    except TeeAgentError:
        return found.records[0].seq


def free(folder: Path, stem: str, suffix: str) -> Path:
    """A name that nothing has yet."""
    names = (folder / f"{stem}-{number}.{suffix}" for number in count(1))
    return next(path for path in names if not os.path.lexists(path))


def write_again(path: Path, start: int, end: int) -> None:
    """The file's bytes from ``start`` to ``end`` as they are shown, on the disk. Raises OSError.

    After a failed fsync the kernel may have dropped pages that it goes on showing; the next fsync says nothing of them.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        while data := os.pread(fd, min(WINDOW, end - start), start):
            start += os.pwrite(fd, data, start)
        os.fsync(fd)
    finally:
        os.close(fd)
