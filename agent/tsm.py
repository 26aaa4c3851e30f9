"""Evidence from the kernel: one private configfs-tsm entry per quote, exact generation arithmetic, one quote at a time.

Interface: Documentation/ABI/testing/configfs-tsm (Linux 6.7 and newer). An entry's ``generation`` grows by one with
each write to it; evidence is ours only if it stands, before and after all reads, exactly where our own writes left
it. ``inblob`` commits on close, so it is written once. Entries go by rmdir, never by recursive delete.

Reads may block: the host throttles SNP guests (stalls of ten seconds are normal). They are never interrupted,
because a TDX guest whose request is killed gets EBUSY until the host gives the buffer back: when the deadline passes
the caller is told so, while the conversation ends in its own thread, holding the machine-wide lock until it has.
Only the end of the process ends it earlier; what that leaves behind the next holder of the lock removes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Self

from agent.core.backoff import Backoff
from agent.core.errors import (
    FirmwareBusy,
    FirmwareError,
    GenerationRace,
    NoTee,
    PermissionMissing,
    TeeAgentError,
    Truncated,
)
from agent.core.model import Evidence, ReportData, Tee
from agent.core.ports import Deadline
from agent.deadline import part
from agent.quotelock import QuoteLock
from agent.retry import CHANCE, persist

PREFIX = "tee-agent-"
MAX_BLOB = 1 << 20
"""Bytes of outblob and of auxblob at the most, each."""
PAUSES = Backoff(base=0.1, cap=3.0)

_LEAST = {Tee.SNP: 1184, Tee.TDX: 48 + 584 + 4}
"""Bytes: an SNP report (AMD 56860 table 22); header, body and length of a TDX quote (Intel DCAP, quote version 4)."""
_SHORT = 64
_CHUNK = 64 * 1024
_BUSY = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT})
_WORDS = {
    errno.EINVAL: "the firmware refused the request (wrong privilege level, or an invalid parameter)",
    errno.ENXIO: "no firmware answers any more, or it answered with an error status",
    errno.EIO: "the firmware reported an error",
    errno.EBUSY: "the firmware is busy, or still owes an answer to somebody",
    errno.ETIMEDOUT: "the host did not answer in time",
    errno.EINTR: "the request was interrupted",
    errno.ENOENT: "our entry vanished",
    errno.ENOTTY: "the kernel has lost its key to the firmware (VMPCK)",
}
KEY_LOST = "firmware.vmpck-lost"
"""Code: Linux wipes an SNP guest's key to the firmware after a request that failed half way."""
UNTIL_REBOOT = (
    "no evidence until a reboot: Linux gives that key up after a failed request (dmesg: Disabling VMPCK), for a "
    "message number must never be used twice"
)


class TsmSource:
    """A QuoteSource on ``root`` (normally /sys/kernel/config/tsm/report).

    One quote takes ``seconds`` at the most, waiting and retries included; ``chance`` gives
    random numbers in [0, 1) for the pauses between tries.
    """

    def __init__(
        self,
        root: Path,
        tee: Tee,
        lock: QuoteLock,
        *,
        seconds: float = 30.0,
        chance: Callable[[], float] = CHANCE,
    ) -> None:
        self.root = root
        self.tee = tee
        self._seconds = seconds
        self._lock = lock
        self._chance = chance

    def quote(self, report_data: ReportData, *, deadline: Deadline) -> Evidence:
        """Evidence over ``report_data``; tries again while that may help and time is left.

        Raises NoTee, PermissionMissing, FirmwareError and its kin, Truncated, DeadlineExceeded (naming the last
        failure, if there was one).
        """
        deadline = part(deadline, self._seconds, "evidence")
        return persist(lambda: self._once(report_data, deadline), deadline, PAUSES, chance=self._chance)

    def _once(self, report_data: ReportData, deadline: Deadline) -> Evidence:
        def converse() -> Evidence:
            sweep(self.root)
            with Entry(self.root) as entry:
                return entry.evidence(self.tee, report_data)

        return self._lock.alone(deadline, "evidence from the firmware", converse)


class Entry:
    """A private entry under ``root``, as a context manager: made with a random name, removed by rmdir."""

    def __init__(self, root: Path, kind: str = "quote") -> None:
        self.path = root / f"{PREFIX}{kind}-{secrets.token_hex(8)}"
        self._writes = 0
        self._start = 0

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(mode=0o700)  # fails if it exists: the name is ours alone
        except OSError as error:
            raise mkdir_error(error, self.path.parent) from error
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.path.rmdir()
        except OSError:
            pass  # the error under way says more, and the next holder of the lock sweeps

    def evidence(self, tee: Tee, report_data: ReportData) -> Evidence:
        """The whole conversation, once. Raises FirmwareError and its kin, Truncated."""
        self._start = self._generation()
        floor = self.privlevel_floor()
        if floor is not None:
            self._write("privlevel", str(floor).encode("ascii"))
        self._write("inblob", report_data.value)
        self._unraced()
        blob = self._read("outblob", MAX_BLOB)
        auxblob = self._read("auxblob", MAX_BLOB) if (self.path / "auxblob").exists() else b""
        self._unraced()
        check_blob(tee, blob, report_data, "outblob")
        return Evidence(tee, blob, auxblob, self.provider())

    def provider(self) -> str:
        """The kernel's name of the firmware interface, such as sev_guest."""
        return self._text("provider")

    def privlevel_floor(self) -> int | None:
        """The lowest privilege level (VMPL) that may be asked for; None where the platform has none."""
        if not (self.path / "privlevel_floor").exists():
            return None
        text = self._text("privlevel_floor")
        if not (text.isascii() and text.isdigit()):
            raise FirmwareError(f"privlevel_floor is not a number: {text[:20]!r}")
        return int(text)

    def _unraced(self) -> None:
        expected, got = self._start + self._writes, self._generation()
        if got != expected:
            raise GenerationRace(f"somebody else wrote to our entry: generation is {got}, not {expected}")

    def _generation(self) -> int:
        text = self._text("generation")
        if not (text.isascii() and text.isdigit()):
            raise FirmwareError(f"generation is not a number: {text[:20]!r}")
        return int(text)

    def _text(self, name: str) -> str:
        return self._read(name, _SHORT).decode("ascii", "replace").strip()

    def _write(self, name: str, data: bytes) -> None:
        """One write, committed by the close; a short one or an error at close is an error."""
        try:
            fd = os.open(self.path / name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                written = os.write(fd, data)
            finally:
                os.close(fd)
        except OSError as error:
            raise firmware_error(error, f"writing {name}") from error
        if written != len(data):
            raise FirmwareError(f"writing {name}: {written} of {len(data)} bytes were taken")
        self._writes += 1

    def _read(self, name: str, most: int) -> bytes:
        try:
            fd = os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                return _read_all(fd, name, most)
            finally:
                os.close(fd)
        except OSError as error:
            raise firmware_error(error, f"reading {name}") from error


def check_blob(tee: Tee, blob: bytes, report_data: ReportData, record: str) -> None:
    """Whole, and over our data? Everything else is the verifier's: an unknown version must not stop a boot here.

    Raises Truncated (naming ``record``), FirmwareError.
    """
    if len(blob) < _LEAST[tee]:
        raise Truncated(
            f"the kernel gave {len(blob)} bytes of evidence, {_LEAST[tee]} are the least",
            record=record,
            expected=f"{_LEAST[tee]} bytes",
            got=f"{len(blob)} bytes",
        )
    if report_data.value not in blob:
        raise FirmwareError("the evidence is not over our REPORT_DATA", code="firmware.other-data")


def _read_all(fd: int, name: str, most: int) -> bytes:
    data = bytearray()
    while len(data) <= most:
        chunk = _read_once(fd, _CHUNK)
        if not chunk:
            return bytes(data)
        data += chunk
    raise FirmwareError(f"reading {name}: more than {most} bytes", code="firmware.too-large")


def _read_once(fd: int, size: int) -> bytes:
    """read(2) as it is: Python's own would ask an interrupted firmware again at once, without our pauses (PEP 475)."""
    buffer = ctypes.create_string_buffer(size)
    got = _LIBC.read(fd, buffer, ctypes.c_size_t(size))
    if got < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw[:got]


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.read.restype = ctypes.c_ssize_t


def sweep(root: Path) -> None:
    """Remove entries that a killed process of ours left behind. Only for the holder of the lock: none is in use."""
    for left in root.glob(f"{PREFIX}quote-*"):
        try:
            left.rmdir()
        except OSError:
            pass  # not ours to mend; a new entry has a new name


def firmware_error(error: OSError, doing: str) -> TeeAgentError:
    """The typed form of what the kernel answered, errno kept."""
    number = error.errno or 0
    words = _WORDS.get(number, os.strerror(number))
    message = f"{doing}: {words} ({errno.errorcode.get(number, number)})"
    if number in (errno.EACCES, errno.EPERM):
        return PermissionMissing(message, hint="evidence interfaces are root's: run as root, or ask the daemon")
    if number in _BUSY:
        return FirmwareBusy(message, errno=number, hint="the host may be throttling this guest; wait and try again")
    if number == errno.ENOTTY:
        return FirmwareError(message, errno=number, hint=UNTIL_REBOOT, code=KEY_LOST)
    hint = "dmesg may hold the firmware's own status" if number in (errno.EINVAL, errno.ENXIO, errno.EIO) else ""
    return FirmwareError(message, errno=number, hint=hint)


def mkdir_error(error: OSError, root: Path) -> TeeAgentError:
    """Why no entry could be made under ``root``."""
    if error.errno == errno.ENXIO:
        return NoTee(
            f"{root}: the kernel has no provider of evidence",
            hint="this is no confidential VM, or its module is not loaded: modprobe sev-guest, or modprobe tdx-guest",
        )
    if error.errno == errno.ENOENT:
        return NoTee(f"{root}: is not there", hint="mount configfs, and load the module tsm (Linux 6.7 or newer)")
    return firmware_error(error, f"making an entry in {root}")
