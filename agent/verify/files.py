"""Bounded reading of what a command line names; "-" is standard input."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from agent.core.canonical import shown
from agent.core.errors import Oversized, UsageError

CHUNK = 1 << 20
PATH_BYTES = 4096
"""The kernel's limit: the end of a path is what tells."""


def read_file(name: str, limit: int) -> bytes:
    """All of it, at most ``limit`` bytes. Raises UsageError (can't be read), Oversized."""
    with _opened(name) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise Oversized(f"{_title(name)} has more than {limit} bytes", expected=f"at most {limit} bytes")
    return data


def chunks(name: str) -> Iterator[bytes]:
    """Its content piece by piece, however large. Raises UsageError."""
    with _opened(name) as stream:
        while piece := stream.read(CHUNK):
            yield piece


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    try:
        if name == "-":
            yield sys.stdin.buffer
            return
        path = Path(name)
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_fifo():
            raise UsageError(f"{_title(name)} is not a file", code="usage.input")
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise UsageError(f"{_title(name)} can't be read: {error.strerror}", code="usage.input") from error


def _title(name: str) -> str:
    return "standard input" if name == "-" else shown(name, PATH_BYTES)
