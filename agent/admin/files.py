"""Files that are there whole or not at all, with their mode from the first byte on."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.core.errors import PermissionMissing, TeeAgentError, UsageError


def replace(path: Path, data: bytes, mode: int) -> None:
    """Put ``data`` in place of ``path``; on disk when this returns. Raises UsageError, PermissionMissing."""
    if is_stream(path):
        with _named(path):
            append(path, data)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with _named(path):
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, mode)
                file.write(data)
                file.flush()
                os.fsync(fd)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync(path.parent)


def is_stream(path: Path) -> bool:
    """Whether it is a device, a pipe or our own output: written to, never replaced. /dev/null must stay what it is."""
    try:
        found = path.stat()
    except OSError:
        return False
    return not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)) or _is_ours(found)


def _is_ours(found: os.stat_result) -> bool:
    """/dev/stdout and its kin, with a file behind them."""
    for fd in (1, 2):
        with suppress(OSError):
            if os.path.samestat(found, os.fstat(fd)):
                return True
    return False


def append(path: Path, data: bytes) -> None:
    """Write to what ``is_stream``. Raises OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY), "wb") as file:
        file.write(data)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def ensure_folder(path: Path) -> None:
    """Make the folder (0755) with its parents, if it is missing. Raises UsageError, PermissionMissing."""
    with _named(path):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PermissionMissing(f"{path}: cannot be written: {error.strerror}", hint="run as root") from error
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> TeeAgentError:
    return UsageError(f"{path}: cannot be written: {error.strerror}", code="usage.output")
