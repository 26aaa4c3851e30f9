"""Reads the audit log while it may be written: its files in order, whole lines, rotation seen as what it is.

The file in use is opened before the folder is listed: whatever is renamed meanwhile is found once, under one of its
two names. Nothing is locked.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.core.audit import MAX_LINE, SEVERITIES, Chain, Head, Points, Record, broken, read
from agent.core.canonical import MAX_INTEGER, shown
from agent.core.errors import TeeAgentError, UsageError, VerificationError
from agent.daemon.auditdisk import CURRENT, full_files
from agent.daemon.files import READ

PAUSE_SECONDS = 0.05
PATIENCE = 40
"""Pauses for the writer to complete a line."""
FOLLOW_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Verified:
    """A log that holds: ``files`` in order, ``counts`` of records by severity."""

    head: Head
    files: tuple[str, ...]
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its newline; ``record`` is None where it is none."""

    raw: bytes
    record: Record | None


def verify_files(paths: list[Path], expected: bytes | None, points: Points | None = None) -> Verified:
    """Files in the order given. Raises VerificationError naming file and line, UsageError."""
    return _verify(_named(paths), Chain(expected, points), patient=False)


def verify_folder(folder: Path, expected: bytes | None, points: Points | None = None) -> Verified:
    """The log in use. Raises as verify_files."""
    return _verify(_streams(folder), Chain(expected, points), patient=True)


def _verify(streams: Iterator[tuple[str, BinaryIO]], chain: Chain, *, patient: bool) -> Verified:
    files, counts = list[str](), dict.fromkeys(SEVERITIES, 0)
    for name, stream in streams:
        files.append(name)
        number = 0
        try:
            for number, line in enumerate(_lines(stream, PATIENCE if patient else 0), 1):
                counts[chain.take(line, begins_file=number == 1).severity] += 1
            if not number:
                raise broken("the file is empty")
        except VerificationError as error:
            raise broken(f"{shown(name)}, line {number}: {error.message}") from error
        except OSError as error:
            raise _unreadable(name, error) from error
    return Verified(chain.end(), tuple(files), counts)


def _lines(stream: BinaryIO, patience: int) -> Iterator[bytes]:
    while line := stream.readline(MAX_LINE + 2):
        while not line.endswith(b"\n") and len(line) <= MAX_LINE and patience:
            patience -= 1
            time.sleep(PAUSE_SECONDS)
            line += stream.readline(MAX_LINE + 2 - len(line))
        if not line.endswith(b"\n"):
            what = f"more than {MAX_LINE} bytes" if len(line) > MAX_LINE else f"{len(line)} bytes without a newline"
            raise broken(f"the line after it has {what}: its writer was killed, or it is damaged")
        yield line[:-1]


def _open(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, READ | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _unreadable(name: str, error: OSError) -> UsageError:
    return UsageError(f"{shown(name, 200)} can't be read: {error.strerror}", hint="the audit log is for root to read")


def _listed(folder: Path) -> list[Path]:
    try:
        return full_files(folder)
    except OSError as error:
        raise _unreadable(str(folder), error) from error


def _named(paths: list[Path]) -> Iterator[tuple[str, BinaryIO]]:
    for path in paths:
        with _open(path) as stream:
            yield str(path), stream


def _streams(folder: Path, after: int = -1) -> Iterator[tuple[str, BinaryIO]]:
    """Files with their names, oldest first; those are left out whose records all have numbers up to ``after``."""
    with ExitStack() as stack:
        current = _current(folder)
        used = os.fstat(stack.enter_context(current).fileno()) if current else None
        for path in _after(_listed(folder), after):
            try:
                stream = _open(path)
            except UsageError:
                if path.exists():
                    raise
                continue  # the oldest go when a new one begins
            with stream:
                if used and os.path.samestat(used, os.fstat(stream.fileno())):
                    used = None
                yield path.name, stream
        if current and used:
            yield CURRENT, current


def _after(paths: list[Path], after: int) -> list[Path]:
    """The full files that have a record above ``after``, as far as their names tell: all but the newest do."""
    starts = [*(int(path.stem[-16:]) for path in paths[1:]), MAX_INTEGER]
    return [path for path, end in zip(paths, starts, strict=False) if end > after + 1]


def _current(folder: Path) -> BinaryIO | None:
    """None in the moment between two names."""
    return _open(folder / CURRENT) if (folder / CURRENT).exists() else None


def last(folder: Path, count: int) -> list[Line]:
    """The last ``count`` whole lines. Nothing is verified. Raises UsageError."""
    found: deque[Line] = deque()
    newest = _current(folder)
    if newest:
        _extend(found, newest, count)
    for path in reversed(_listed(folder)):
        first = found[0].record if found else None
        if len(found) >= count:
            break
        if first is None or int(path.stem[-16:]) < first.seq:
            _extend(found, _open(path), count)
    return list(found)


def _extend(found: deque[Line], stream: BinaryIO, count: int) -> None:
    with stream:
        kept = deque(_whole(stream), maxlen=count - len(found))
    found.extendleft(_line(raw) for raw in reversed(kept))


def _whole(stream: BinaryIO) -> Iterator[bytes]:
    """Lines that have an end, with it, however damaged; longer ones in pieces."""
    while line := stream.readline(MAX_LINE + 2):
        if line.endswith(b"\n") or len(line) > MAX_LINE:
            yield line


def _line(raw: bytes) -> Line:
    raw = raw.removesuffix(b"\n")
    try:
        return Line(raw, read(raw))
    except TeeAgentError:
        return Line(raw, None)


def follow(folder: Path, after: int, pause: Callable[[float], None] = time.sleep) -> Generator[Line, None, None]:
    """Lines behind record ``after``, as they are written, without end. Raises UsageError.

    A file is known by its first line, which no other has: names change, and inodes are used again.
    """
    read_to: dict[bytes, int] = {}
    while True:
        seen, read_to = read_to, {}
        for _, stream in _streams(folder, after):
            first = stream.readline(MAX_LINE + 2)
            position = stream.seek(seen.get(first, 0))
            for raw in _whole(stream):
                position += len(raw)
                line = _line(raw)
                if line.record is None or line.record.seq > after:
                    yield line
                after = max(after, line.record.seq) if line.record else after
            read_to[first] = position
        pause(FOLLOW_SECONDS)
