"""The block device or image file a volume lies on: opened once, read with bounds, locked while it is edited.

The lock is an open-file-description lock on the device itself, which a cryptsetup child inherits: if we are killed
during an edit, the next run waits until that child has ended. cryptsetup's own locks are of another kind.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import Conflict, DeadlineExceeded, DiskError, PermissionMissing
from agent.core.ports import Deadline
from agent.disk import header
from agent.disk.header import Header

BY_UUID = Path("/dev/disk/by-uuid")
_LOCK_POLL_SECONDS = 0.1
_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, length, pid


@dataclass(frozen=True, slots=True)
class Device:
    """An open device. ``size`` in bytes; ``path`` has no symbolic links."""

    path: Path
    fd: int
    size: int
    is_block: bool

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer only at the end. Raises DiskError."""
        parts = bytearray()
        try:
            while len(parts) < size and (part := os.pread(self.fd, size - len(parts), offset + len(parts))):
                parts += part
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be read at byte {offset}: {error.strerror}") from error
        return bytes(parts)

    def header(self) -> Header:
        """The header as it is now. Raises HeaderRefused, DiskError."""
        return header.load(self.read, self.size)

    def lock(self, deadline: Deadline) -> None:
        """Wait until no other tee-agent edits this device. Raises Conflict when the deadline passes first."""
        while not self._try_lock():
            try:
                deadline.sleep(_LOCK_POLL_SECONDS)
            except DeadlineExceeded as error:
                raise Conflict(
                    f"{self.path}: another tee-agent is at work on it", hint="wait, then try again"
                ) from error

    def _try_lock(self) -> bool:
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except BlockingIOError:
            return False
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be locked: {error.strerror}") from error
        return True


def locate(spec: str) -> Path:
    """The path that ``spec`` ("/path" or "UUID=...") means now, without symbolic links. Raises DiskError."""
    path = BY_UUID / spec.removeprefix("UUID=").lower() if spec.startswith("UUID=") else Path(spec)
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DiskError(
            f"{spec}: there is no such device", hint="compare with lsblk -f, and with [[volume]]", code="disk.missing"
        ) from error


@contextmanager
def opened(spec: str, *, write: bool = False) -> Iterator[Device]:
    """The device ``spec`` names, for reading, or for reading and locking. Raises DiskError, PermissionMissing."""
    path = locate(spec)
    fd = _open(path, os.O_RDWR if write else os.O_RDONLY)
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
            raise DiskError(f"{path}: neither a block device nor a regular file", code="disk.missing")
        yield Device(path, fd, os.lseek(fd, 0, os.SEEK_END), stat.S_ISBLK(mode))
    finally:
        os.close(fd)


def _open(path: Path, flags: int) -> int:
    try:
        # O_NONBLOCK: a FIFO in place of the device must not hang the boot.
        return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError as error:
        raise PermissionMissing(f"{path}: not permitted", hint="run as root") from error
    except OSError as error:
        raise DiskError(f"{path}: cannot be opened: {error.strerror}") from error
