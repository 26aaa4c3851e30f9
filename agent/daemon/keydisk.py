"""Steps on the folder of persistent keys: whose it is, what is in it, and changes that are on the disk or errors."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.core.errors import ConfigError, Oversized, ServerError
from agent.daemon import files
from agent.daemon.keyfile import MAX_KEYS, NEW

FOLDER_MODE = 0o700
MAX_ENTRIES = 4 * MAX_KEYS
"""Names in the folder at the most: each key's file, its successor, and either before it has its name."""


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


def require_private(folder: Path) -> None:
    """Raises ConfigError where others than the signer's user may use the folder; OSError."""
    said = folder.lstat()
    if not stat.S_ISDIR(said.st_mode) or said.st_uid != os.geteuid() or said.st_mode & 0o077:
        raise ConfigError(
            f"daemon.keys_folder: {folder} is not a folder of the signer's user alone",
            hint=f"chown {os.geteuid()} and chmod 0700: only the signer may read and write it",
        )


def names(folder: Path) -> list[str]:
    """Of all files, sorted. Raises OSError, Oversized over MAX_ENTRIES."""
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            found.append(entry.name)
            if len(found) > MAX_ENTRIES:
                raise Oversized(f"{folder}: more than {MAX_ENTRIES} files", record="key folder")
    return sorted(found)


def replace(path: Path, data: bytes) -> None:
    """``path`` has this content, on the disk, and is never seen half written. Raises OSError; then it has the old
    content or the new one."""
    new = path.with_name(path.name + NEW)
    try:
        files.write_new(new, data)
        new.rename(path)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    files.sync_folder(path.parent)


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
        files.sync_folder(folder)
    if first:
        raise first
