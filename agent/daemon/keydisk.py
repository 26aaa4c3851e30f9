"""Steps on the folder of persistent keys: bounded reading of what the host may have written, and writing that lasts."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.core.errors import ConfigError, Conflict, FormatError, Oversized, ServerError
from agent.daemon import auditdisk
from agent.daemon.keyfile import LOCK, MAX_KEYS, NEW

FOLDER_MODE = 0o700
MAX_ENTRIES = 4 * MAX_KEYS
"""Names in the folder at the most: each key's file, its successor, and either before it has its name."""
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def prepare(folder: Path, uid: int, gid: int) -> None:
    """As root, before the signer becomes its user: the folder, where it is missing. Raises nothing: who opens it
    will see."""
    with suppress(OSError):
        folder.mkdir(mode=FOLDER_MODE)
        os.chown(folder, uid, gid)


@contextmanager
def storage(folder: Path) -> Iterator[None]:
    """What the system says inside is a ServerError (``server.storage``)."""
    try:
        yield
    except OSError as error:
        raise ServerError(
            f"{folder}: {error.strerror or error}",
            hint="persistent keys can't be changed until this folder can be written; the signer's user owns it",
            retry_after=10.0,
            code="server.storage",
        ) from error


def lock(folder: Path) -> int:
    """A descriptor that holds the folder's lock. Raises Conflict (``conflict.running``), ConfigError, OSError."""
    said = folder.lstat()
    if not stat.S_ISDIR(said.st_mode) or said.st_uid != os.geteuid() or said.st_mode & 0o077:
        raise ConfigError(
            f"daemon.keys_folder: {folder} is not a folder of the signer's user alone",
            hint=f"chown {os.geteuid()} and chmod 0700: only the signer may read and write it",
        )
    fd = os.open(folder / LOCK, auditdisk.LOCKING, auditdisk.MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise Conflict(
            f"{folder}: another process has these keys",
            hint="stop the other daemon, or give it another [daemon] keys_folder",
            code="conflict.running",
        ) from error
    return fd


def names(folder: Path) -> list[str]:
    """Of all files, sorted. Raises OSError, Oversized over MAX_ENTRIES."""
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            found.append(entry.name)
            if len(found) > MAX_ENTRIES:
                raise Oversized(f"{folder}: more than {MAX_ENTRIES} files", record="key folder")
    return sorted(found)


def read(path: Path, most: int) -> bytes:
    """A regular file of at most ``most`` bytes. Raises OSError, FormatError, Oversized."""
    fd = os.open(path, _READ)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FormatError(f"{path.name}: not a regular file", record="key file")
        data = bytearray()
        while chunk := os.read(fd, min(65_536, most + 1 - len(data))):
            data += chunk
    finally:
        os.close(fd)
    if len(data) > most:
        raise Oversized(f"{path.name}: more than {most} bytes", record="key file")
    return bytes(data)


def replace(path: Path, data: bytes) -> None:
    """``path`` has this content, on the disk, and is never seen half written. Raises OSError; then it has the old
    content or the new one."""
    new = path.with_name(path.name + NEW)
    try:
        auditdisk.write_new(new, data)
        new.rename(path)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    auditdisk.sync_folder(path.parent)


def remove(paths: Iterable[Path]) -> None:
    """Each of them, whatever becomes of the others, on the disk. Raises OSError: the first one's."""
    first: OSError | None = None
    folders: set[Path] = set()
    for path in paths:
        folders.add(path.parent)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            first = first or error
    for folder in folders:
        auditdisk.sync_folder(folder)
    if first:
        raise first
