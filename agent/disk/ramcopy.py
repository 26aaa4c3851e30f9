"""The validated header in RAM, where nobody can change it: an anonymous file, sealed before cryptsetup sees it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.core.errors import DiskError
from agent.disk import image
from agent.disk.device import Device
from agent.disk.header import Header

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class RamCopy:
    """``path`` is valid in a child that inherits ``fd``."""

    fd: int

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self.fd}"


@contextmanager
def ram_copy(device: Device, header: Header, slots: Collection[int]) -> Iterator[RamCopy]:
    """``header`` with ``slots`` and nothing else, for as long as the context lasts. Raises DiskError."""
    fd = os.memfd_create("luks-header", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        try:
            os.ftruncate(fd, image.size(header))
            for offset, data in image.parts(header, slots, device.read):
                _write(fd, offset, data)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as error:
            raise DiskError(f"no room for the header in memory: {error.strerror}") from error
        yield RamCopy(fd)
    finally:
        os.close(fd)


def _write(fd: int, offset: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written
