"""This machine's measurement registers and event log, where the kernel shows them. Nothing here is evidence.

Registers: Linux 6.16 or newer, ``/sys/devices/virtual/misc/tdx_guest/measurements`` (Documentation/ABI/testing/
sysfs-devices-virtual-misc-tdx_guest): one file per register, 48 raw bytes; root extends an RTMR by writing a
SHA-384 digest in one write. Event log: ACPI's CCEL table and its area under ``/sys/firmware/acpi/tables``.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

from agent.core.errors import (
    Conflict,
    DeviceMissing,
    FirmwareError,
    FormatError,
    PermissionMissing,
    TeeAgentError,
    UsageError,
)
from tdx.ccel import MAX_AREA, Table
from tdx.event import DIGEST_SIZE, REGISTERS
from tdx.eventlog import extend

MEASUREMENTS = Path("/sys/devices/virtual/misc/tdx_guest/measurements")
ACPI_TABLES = Path("/sys/firmware/acpi/tables")
EXTENDABLE = (2, 3)
"""RTMR0 and RTMR1 are the firmware's: the kernel would let root extend them, we don't."""

_MAX_REGISTER = 64
_MAX_REGISTERS = 64
_NAME = re.compile(r"[a-z0-9_]{1,32}(?::sha(?:256|384|512))?", re.ASCII)
_HINT = "Linux 6.16 or newer in a TDX guest shows them; a quote has the RTMRs too: tee-agent evidence collect"


class Registers:
    """The kernel's folder of registers. Every method raises DeviceMissing, PermissionMissing, FirmwareError."""

    def __init__(self, root: Path = MEASUREMENTS, write: Callable[[int, bytes], int] = os.write) -> None:
        self.root = root
        self._write = write

    def names(self) -> list[str]:
        """The kernel's names of all registers there are, such as ``mrconfigid`` and ``rtmr0:sha384``."""
        try:
            with os.scandir(self.root) as entries:
                found = sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))
        except OSError as error:
            raise _refused(error, self.root) from error
        return found[:_MAX_REGISTERS]

    def read_all(self) -> dict[str, bytes]:
        """Every register by the kernel's name."""
        return {name: self._read(name) for name in self.names()}

    def read(self) -> dict[int, bytes]:
        """RTMR0 to RTMR3, 48 bytes each."""
        return {index: self.rtmr(index) for index in REGISTERS}

    def rtmr(self, index: int) -> bytes:
        """One RTMR, 48 bytes."""
        value = self._read(_file(index))
        if len(value) != DIGEST_SIZE:
            raise FirmwareError(f"{self.root / _file(index)}: {len(value)} bytes, a register has {DIGEST_SIZE}")
        return value

    def extend(self, index: int, digest: bytes) -> tuple[bytes, bytes]:
        """Extend RTMR2 or 3 by 48 bytes, once; it can't be undone. Returns the values before and after.

        Raises UsageError for another register or size, Conflict when the value afterwards is not the expected one:
        somebody else extended it at the same time.
        """
        if index not in EXTENDABLE or len(digest) != DIGEST_SIZE:
            raise UsageError(f"RTMR{EXTENDABLE[0]} or {EXTENDABLE[1]} is extended by {DIGEST_SIZE} bytes (SHA-384)")
        before = self.rtmr(index)
        self._extend(self.root / _file(index), digest)
        after = self.rtmr(index)
        if after != extend(before, digest):
            raise Conflict(
                f"RTMR{index} was extended, but its value is not the one expected: something else extended it as well",
                hint="the digest is in it all the same; don't extend it again",
                code="conflict.rtmr",
            )
        return before, after

    def _read(self, name: str) -> bytes:
        return _bounded(self.root / name, _MAX_REGISTER)

    def _extend(self, path: Path, digest: bytes) -> None:
        try:
            # No O_CREAT: a file that is not there is not a register. One write, for the kernel takes no parts.
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                written = self._write(fd, digest)
            finally:
                os.close(fd)
        except OSError as error:
            raise _refused(error, path) from error
        if written != len(digest):
            raise FirmwareError(f"{path}: the kernel took {written} of {len(digest)} bytes", code="firmware.rtmr")


def read_event_log(tables: Path = ACPI_TABLES) -> bytes:
    """This machine's CCEL area. Raises DeviceMissing, PermissionMissing, FirmwareError, FormatError."""
    try:
        table = Table.parse(_bounded(tables / "CCEL", Table.SIZE + 1))
        area = _bounded(tables / "data" / "CCEL", MAX_AREA)
    except DeviceMissing as error:
        raise DeviceMissing(
            f"no event log: {error.message}", hint="a TDX guest with UEFI firmware has a CCEL table; name a FILE"
        ) from error
    if len(area) != table.log_length:
        problem = f"{tables / 'data' / 'CCEL'}: {len(area)} bytes, the table says {table.log_length}"
        raise FormatError(problem, record="CCEL table", hint="the kernel gives a part of the area only")
    return area


def _file(index: int) -> str:
    return f"rtmr{index}:sha384"


def _bounded(path: Path, most: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise _refused(error, path) from error
    if len(data) > most:
        raise FormatError(f"{path}: more than {most} bytes", record=path.name)
    return data


def _refused(error: OSError, path: Path) -> TeeAgentError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionMissing(f"{path}: {error.strerror}", hint="run as root")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return DeviceMissing(f"{path}: {error.strerror}", hint=_HINT)
    number = error.errno or 0
    name = errno.errorcode.get(number, str(number))
    return FirmwareError(f"{path}: {name}: {error.strerror}", errno=number, code="firmware.rtmr")
