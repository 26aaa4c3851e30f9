"""Files that must last: writing that is whole and on the disk, and folders that one process has to itself.

For the audit log and the persistent keys. Their folders may be on the host's disk: whatever stands in a file's place
is not followed, not waited for, and not written into.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import Conflict, FormatError, Oversized

MODE = 0o600
"""Of every file: the signer's group is the one that may sign, and reads none of them."""
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Without waiting: a FIFO has its name as quickly as a file."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_LOCKING = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CHUNK = 65_536


def prepare(folder: Path, uid: int, gid: int, mode: int) -> None:
    """As root, before the signer becomes its user: the folder, where it is missing. Raises nothing: who opens it
    will see."""
    with suppress(OSError):
        folder.mkdir(mode=mode)
        os.chown(folder, uid, gid)
        folder.chmod(mode)


@dataclass(slots=True)
class FolderLock:
    """Held from ``take`` to ``release`` by an open file of this name; the kernel gives it back when a process ends.

    ``taken`` says what another process has, ``setting`` where another folder would be configured.
    """

    file: Path
    taken: str
    setting: str
    _fd: int = -1

    def take(self) -> None:
        """Nothing where it is held already. Raises Conflict (``conflict.running``), OSError."""
        if self._fd >= 0:
            return
        fd = self._opened()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if not isinstance(error, BlockingIOError):
                raise
            raise Conflict(
                f"{self.file.parent}: another process {self.taken}",
                hint=f"stop the other daemon, or give it another {self.setting}",
                code="conflict.running",
            ) from error
        self._fd = fd

    def _opened(self) -> int:
        try:
            return os.open(self.file, _LOCKING | os.O_RDWR, MODE)
        except OSError as error:
            # What is on a disk that became read-only can be used; on NFS a lock wants to write.
            if error.errno != errno.EROFS:
                raise
            return os.open(self.file, _LOCKING | os.O_RDONLY, MODE)

    def release(self) -> None:
        """For a process that goes on living."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(path: Path, most: int) -> bytes:
    """A regular file of at most ``most`` bytes. Raises OSError, FormatError, Oversized."""
    fd = os.open(path, READ)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FormatError(f"{path.name}: not a regular file", record="file")
        data = bytearray()
        while chunk := os.read(fd, min(_CHUNK, most + 1 - len(data))):
            data += chunk
    finally:
        os.close(fd)
    if len(data) > most:
        raise Oversized(f"{path.name}: more than {most} bytes", record="file")
    return bytes(data)


def write(fd: int, data: bytes) -> None:
    """All of it. Raises OSError, and then a part may be written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_new(path: Path, data: bytes) -> None:
    """A new file with this content, on the disk, in place of any other; its name is the folder's to sync.

    Raises OSError.
    """
    fd = _created(path)
    try:
        write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def _created(path: Path) -> int:
    try:
        return os.open(path, _CREATE, MODE)
    except FileExistsError:
        # Left by a kill, or put there: it may have another mode and other names, or be no file at all.
        path.unlink()
        return os.open(path, _CREATE, MODE)


def sync_folder(folder: Path) -> None:
    """Names in the folder are on the disk. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
