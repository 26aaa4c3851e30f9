"""The guest drivers' character devices: opening one, asking it, and what a refusal to open means.

``ioctl`` is called through the C library: Python's own keeps the whole process waiting (GIL) for a large argument, and
a host may let a guest wait for a minute.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.core.errors import DeviceMissing, FirmwareBusy, FirmwareError, PermissionMissing, TeeAgentError

Ioctl = Callable[[int, int, bytearray], None]
"""``ioctl(fd, command, argument)``: the argument is changed in place. Raises OSError."""

MODULES = {"sev-guest": "sev-guest", "tdx_guest": "tdx-guest"}
"""Device node and the module that makes it."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_ABSENT = (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOTDIR)


def kernel_ioctl(fd: int, command: int, argument: bytearray) -> None:
    """ioctl(2) once, whatever interrupts it. Raises OSError; the argument may have changed all the same."""
    buffer = (ctypes.c_char * len(argument)).from_buffer(argument)
    if _LIBC.ioctl(fd, ctypes.c_ulong(command), buffer) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def address(buffer: bytearray) -> int:
    """Where a buffer's bytes are, for the kernel. Good while the buffer lives and keeps its length."""
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """The device, as a file descriptor. Raises DeviceMissing, PermissionMissing, FirmwareError and its kin."""
    try:
        if not stat.S_ISCHR(path.stat().st_mode):
            raise DeviceMissing(
                f"{path} is there, but is no device", hint=_load(path), code="platform.device-missing.node"
            )
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(error, path) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _refused(error: OSError, path: Path) -> TeeAgentError:
    number = error.errno or 0
    if number in _ABSENT:
        return DeviceMissing(f"{path} is not there", hint=_load(path), code="platform.device-missing.node")
    if number in (errno.EACCES, errno.EPERM):
        return PermissionMissing(
            f"{path}: only root may ask for evidence here",
            hint="run as root, or ask the daemon over its socket; root too needs DeviceAllow= in a unit of systemd",
        )
    message = f"opening {path}: {error.strerror} ({errno.errorcode.get(number, number)})"
    if number in (errno.EBUSY, errno.EAGAIN, errno.EINTR):
        return FirmwareBusy(message, errno=number, hint="somebody else has it open; wait and try again")
    return FirmwareError(message, errno=number)


def _load(path: Path) -> str:
    return f"modprobe {MODULES.get(path.name, 'sev-guest, or modprobe tdx-guest')}"
