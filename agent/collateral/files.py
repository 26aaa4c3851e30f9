"""Files of the cache: there whole or not at all, never through a link, errors typed."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.core.errors import PermissionMissing, UsageError

FILE_MODE, FOLDER_MODE = 0o644, 0o755
DRAFT = ".part"
"""Drafts begin with a dot and end with this: no reader looks at them, and the next writer removes them."""


def read_bounded(path: Path, limit: int) -> bytes | None:
    """The file's bytes; None where there is no regular file, or a longer one. Raises PermissionMissing, UsageError."""
    with _named(path):
        try:
            if path.is_symlink():
                return None
            # O_NONBLOCK: a FIFO put there must not hold us up. O_NOFOLLOW: nor a link put there since.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file, _named(path):
        data = file.read(limit + 1)
    return data if len(data) <= limit else None


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` in place of ``path`` (0644); on disk when this returns. Raises PermissionMissing, UsageError."""
    with _named(path):
        fd, name = tempfile.mkstemp(DRAFT, ".", path.parent)
        draft = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, FILE_MODE)
                file.write(data)
                file.flush()
                os.fsync(fd)
            draft.replace(path)
        except BaseException:
            draft.unlink()
            raise
        _sync(path.parent)


def ensure_folder(path: Path) -> None:
    """Make the folder and those above it (0755) where they are missing. Raises PermissionMissing, UsageError."""
    with _named(path):
        missing = [path, *path.parents]
        for folder in reversed(missing[: next(at for at, one in enumerate(missing) if one.is_dir())]):
            folder.mkdir(FOLDER_MODE, exist_ok=True)
            folder.chmod(FOLDER_MODE)  # whatever the umask is


def open_lock(path: Path) -> int:
    """A descriptor of the lock file, made if it is missing. Raises PermissionMissing, UsageError."""
    with _named(path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)


def modified(path: Path) -> float:
    """Seconds since the epoch; 0 for a file that is gone. Raises PermissionMissing, UsageError."""
    with _named(path):
        try:
            return path.lstat().st_mtime
        except FileNotFoundError:
            return 0.0


def touch(path: Path) -> None:
    """Set its time to now. Raises PermissionMissing, UsageError."""
    with _named(path):
        os.utime(path, follow_symlinks=False)


def is_file(path: Path) -> bool:
    """A regular file, no link. Raises PermissionMissing, UsageError."""
    with _named(path):
        return path.is_file() and not path.is_symlink()


def remove(path: Path) -> None:
    """Raises PermissionMissing, UsageError; a file that is gone already is no error."""
    with _named(path):
        path.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """The one table from the kernel's errors to ours."""
    try:
        yield
    except PermissionError as error:
        hint = "run as root, or as the folder's owner"
        raise PermissionMissing(f"{path}: {error.strerror}", hint=hint) from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", code="usage.output") from error


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
