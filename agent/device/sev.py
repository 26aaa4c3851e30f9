"""SNP reports and derived keys from /dev/sev-guest, for kernels without configfs-tsm.

Sources: Linux include/uapi/linux/sev-guest.h and the driver's own behaviour: a host that throttles is tried by the
driver for a minute (ETIMEDOUT after it); after a request that failed half way the driver wipes its key to the firmware
(VMPCK) and answers ENOTTY for good; GET_EXT_REPORT with too small a buffer costs a firmware request all the same and
comes back as EIO with INVALID_LEN and the size wanted. So the first buffer is as large as the driver allows.

As in agent.tsm a request is waited for and never killed, under the machine-wide lock.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from agent.core.config import EvidenceConfig
from agent.core.errors import FirmwareBusy, FirmwareError, FormatError, PermissionMissing, TeeAgentError
from agent.core.model import Evidence, ReportData, Secret, Tee
from agent.core.ports import Deadline
from agent.deadline import part
from agent.device.node import Ioctl, address, kernel_ioctl, opened
from agent.quotelock import QuoteLock
from agent.retry import CHANCE, persist
from agent.tsm import KEY_LOST, PAUSES, UNTIL_REBOOT, check_blob
from snp import guestmsg
from snp.certtable import MAX_SIZE, used

PROVIDER = "sev_guest"
VMPL = Path("devices/system/cpu/sev/vmpl")
"""This guest's privilege level, under /sys (Linux 6.11 and newer, SNP guests only)."""
_TRIES = 3
"""Extended requests in one conversation: each that finds its buffer too small costs the firmware one."""
_BUSY = (errno.EBUSY, errno.EAGAIN, errno.EINTR)
_UNUSABLE = frozenset({0x0B, 0x1D, guestmsg.FW_INVALID_KEY, 0xFF, guestmsg.FW_NO_CALL})
"""Firmware errors of a request that say: message, counter or key don't fit any more."""


def look(config: EvidenceConfig, sys: Path) -> int:
    """The privilege level, if the device can be used; asks the firmware nothing.

    Raises DeviceMissing, PermissionMissing, FirmwareError and its kin.
    """
    with opened(config.sev_device):
        return privilege_level(sys / VMPL)


def source(config: EvidenceConfig, lock: QuoteLock, sys: Path) -> SevGuestSource:
    """The source that the configuration asks for. ``sys`` is /sys."""
    return SevGuestSource(config.sev_device, lock, seconds=config.quote_seconds, vmpl_file=sys / VMPL)


def privilege_level(path: Path) -> int:
    """The VMPL this guest runs at: 0 where the kernel doesn't say. Raises FirmwareError for what is no level."""
    try:
        with path.open("rb") as file:
            text = file.read(16).strip()
    except OSError:
        return 0
    if text not in (b"0", b"1", b"2", b"3"):
        raise FirmwareError(f"{path} is no privilege level: {text!r}")
    return int(text)


class SevGuestSource:
    """A QuoteSource on ``device``. One piece of evidence takes ``seconds`` at the most, waiting and retries included.

    ``certificates`` is the first buffer for the host's certificates in bytes (whole pages); the size learnt from the
    kernel is kept. ``vmpl_file`` says which level to ask for.
    """

    tee = Tee.SNP

    def __init__(
        self,
        device: Path,
        lock: QuoteLock,
        *,
        seconds: float = 30.0,
        vmpl_file: Path = Path("/sys") / VMPL,
        certificates: int = guestmsg.MAX_CERTS,
        ioctl: Ioctl = kernel_ioctl,
        chance: Callable[[], float] = CHANCE,
    ) -> None:
        self.device = device
        self._lock = lock
        self._seconds = seconds
        self._vmpl_file = vmpl_file
        self._room = certificates
        self._ioctl = ioctl
        self._chance = chance

    def quote(self, report_data: ReportData, *, deadline: Deadline) -> Evidence:
        """Evidence over ``report_data``; tries again while that may help and time is left.

        Raises DeviceMissing, PermissionMissing, FirmwareError and its kin, FormatError, DeadlineExceeded.
        """
        deadline = part(deadline, self._seconds, "evidence")
        once = partial(self._lock.alone, deadline, "evidence from the firmware", partial(self._evidence, report_data))
        return persist(once, deadline, PAUSES, chance=self._chance)

    def derived_key(
        self,
        fields: Iterable[str],
        *,
        deadline: Deadline,
        root: str = "vcek",
        vmpl: int | None = None,
        guest_svn: int = 0,
        tcb_version: int = 0,
    ) -> Secret:
        """A key of 32 bytes that this chip derives for this guest (AMD 56860, MSG_KEY_REQ).

        ``fields`` are names in snp.guestmsg.FIELDS: what the key changes with. ``root`` is a name in ROOT_KEYS;
        ``vmpl`` a level not more privileged than this guest's (None: its own). Without ``measurement`` in ``fields``
        any software that boots here under the same owner gets the same key.

        Raises as ``quote``; PermissionMissing for anybody but root.
        """
        if os.geteuid():
            raise PermissionMissing("derived keys are root's", hint="run as root")
        if root not in guestmsg.ROOT_KEYS:
            raise FormatError(f"no such root key: {root[:40]!r}", hint=", ".join(guestmsg.ROOT_KEYS))
        level = privilege_level(self._vmpl_file) if vmpl is None else vmpl
        if not (0 <= level <= 3 and 0 <= guest_svn < 1 << 32 and 0 <= tcb_version < 1 << 64):
            raise FormatError("VMPL, guest SVN or TCB version out of bounds", record="MSG_KEY_REQ")
        request = guestmsg.DerivedKeyRequest.build(
            root_key_select=guestmsg.ROOT_KEYS[root],
            guest_field_select=guestmsg.field_select(fields),
            vmpl=level,
            guest_svn=guest_svn,
            tcb_version=tcb_version,
        )
        deadline = part(deadline, self._seconds, "derived key")
        once = partial(self._lock.alone, deadline, "a key from the firmware", partial(self._key, request))
        return persist(once, deadline, PAUSES, chance=self._chance)

    def _evidence(self, report_data: ReportData) -> Evidence:
        request = guestmsg.ReportRequest.build(user_data=report_data.value, vmpl=privilege_level(self._vmpl_file))
        with opened(self.device) as fd:
            report, table = self._extended(fd, request)
        check_blob(self.tee, report, report_data, "SNP report")
        return Evidence(self.tee, report, table, PROVIDER)

    def _extended(self, fd: int, request: guestmsg.ReportRequest) -> tuple[bytes, bytes]:
        """Report and certificates; the report alone where the host can't give certificates that fit."""
        room, response = self._room, bytearray(guestmsg.REPORT_RESPONSE)
        for _ in range(_TRIES):
            wanted = self._ask_extended(fd, request, room, response)
            if isinstance(wanted, bytes):
                self._room = room
                return guestmsg.report_of(bytes(response)), wanted
            if not room < wanted <= MAX_SIZE or wanted % guestmsg.PAGE:
                break
            room = wanted
        self._request(fd, guestmsg.GET_REPORT, bytearray(request.data), response)
        return guestmsg.report_of(bytes(response)), b""

    def _ask_extended(self, fd: int, request: guestmsg.ReportRequest, room: int, response: bytearray) -> bytes | int:
        """The certificate table, or how many bytes it needs (0: there will be none)."""
        table = bytearray(room)
        asked = guestmsg.ExtReportRequest.build(
            request=request.data, certs_address=address(table) if room else 0, certs_len=room
        )
        argument = bytearray(asked.data)
        try:
            self._request(fd, guestmsg.GET_EXT_REPORT, argument, response)
        except _TooSmall:
            return guestmsg.ExtReportRequest(bytes(argument)).certs_len
        except FirmwareError as error:
            # Refused before it reached the firmware: too large for this driver, or not known to it.
            if error.errno in (errno.EINVAL, errno.ENOTTY):
                return 0
            raise
        return used(bytes(table))

    def _key(self, request: guestmsg.DerivedKeyRequest) -> Secret:
        response = bytearray(guestmsg.KEY_RESPONSE)
        try:
            with opened(self.device) as fd:
                self._request(fd, guestmsg.GET_DERIVED_KEY, bytearray(request.data), response)
            status = int.from_bytes(response[:4], "little")
            if status:
                raise guestmsg.refused(status)
            key = Secret(response[-guestmsg.KEY_SIZE :])
        finally:
            response[:] = bytes(len(response))
        return key

    def _request(self, fd: int, command: int, request: bytearray, response: bytearray) -> None:
        """One ioctl, its failure typed."""
        argument = bytearray(
            guestmsg.GuestRequest.build(
                msg_version=guestmsg.MSG_VERSION, req_data=address(request), resp_data=address(response)
            ).data
        )
        try:
            self._ioctl(fd, command, argument)
        except OSError as error:
            raise failure(error, guestmsg.GuestRequest(bytes(argument)).exitinfo2) from error


class _TooSmall(FirmwareError):
    """The host wants a larger buffer for its certificates."""


def failure(error: OSError, word: int) -> TeeAgentError:
    """The typed form of an ioctl's errno and exitinfo2."""
    number = error.errno or 0
    vmm, firmware = guestmsg.split(word)
    words = guestmsg.error_words(word) if number in (errno.EIO, errno.ETIMEDOUT) else ""
    message = f"asking the firmware: {words or os.strerror(number)} ({errno.errorcode.get(number, number)})"
    if number == errno.EIO and vmm == guestmsg.VMM_INVALID_LEN:
        return _TooSmall(message, errno=number, status=firmware)
    if number == errno.ETIMEDOUT:
        hint = f"the host throttled this guest for a minute. If the next try fails with {KEY_LOST}: {UNTIL_REBOOT}"
        return FirmwareBusy(message, errno=number, status=firmware, hint=hint, code="firmware.busy.timeout")
    if number in _BUSY or (number == errno.EIO and vmm == guestmsg.VMM_BUSY):
        return FirmwareBusy(message, errno=number, hint="the host may be throttling this guest; wait and try again")
    if number in (errno.ENOTTY, errno.EBADMSG) or (number == errno.EIO and not vmm and firmware in _UNUSABLE):
        lost = f"the kernel has lost its key to the firmware (VMPCK): {message}"
        return FirmwareError(lost, errno=number, status=firmware, hint=UNTIL_REBOOT, code=KEY_LOST)
    if number == errno.EIO:
        hint = f"the firmware's or the host's own error; after it most likely {UNTIL_REBOOT}"
        return FirmwareError(message, errno=number, status=firmware, hint=hint, code="firmware.request")
    return FirmwareError(message, errno=number, status=firmware)
