"""Steps on the audit log's folder: bounded reading, whole writing, and names for what is moved aside."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path

from agent.core import audit
from agent.core.audittail import WINDOW, Tail, tail
from agent.core.errors import TeeAgentError

CURRENT, NEW, LOCK = "audit.jsonl", "audit.jsonl.new", "audit.lock"
FULL = re.compile(r"audit-([0-9]{16})\.jsonl", re.ASCII)
MODE = 0o600
"""The signer's group is the one that may sign; it reads no log."""
FOLDER_MODE = 0o750
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
APPEND = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
LOCKING = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


def prepare(folder: Path, uid: int, gid: int) -> None:
    """As root, before the signer becomes its user: the folder, where it is missing. Raises nothing: who opens it
    will see."""
    with suppress(OSError):
        folder.mkdir(mode=FOLDER_MODE)
        os.chown(folder, uid, gid)
        folder.chmod(FOLDER_MODE)


def full_files(folder: Path) -> list[Path]:
    """The files that are written no more, oldest first. Raises OSError."""
    return sorted(path for path in folder.iterdir() if FULL.fullmatch(path.name))


def write(fd: int, data: bytes) -> None:
    """All of it. Raises OSError, and then a part may be written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_new(path: Path, data: bytes) -> None:
    """A file with this content, on the disk; its name is the folder's to sync. Raises OSError."""
    fd = os.open(path, _CREATE, MODE)
    try:
        write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Names in the folder are on the disk. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_tail(fd: int) -> tuple[Tail, int]:
    """The end of an open file, and its size. Raises OSError."""
    size = os.fstat(fd).st_size
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
