"""TDX quotes from /dev/tdx_guest and the host's quote service, for kernels without configfs-tsm.

The device gives a TDREPORT over our REPORTDATA (Linux include/uapi/linux/tdx-guest.h, TDX_CMD_GET_REPORT0); the host's
quoting enclave turns it into a quote (agent.device.qgs). One such conversation at a time on the whole machine, in a
thread of its own: the request to the driver is never interrupted, for a TDX guest that leaves one behind gets EBUSY
until the host gives the buffer back. EBUSY is tried again, with growing pauses, until the deadline.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.core.config import EvidenceConfig
from agent.core.errors import FirmwareBusy, FirmwareError, TeeAgentError
from agent.core.model import REPORT_DATA_SIZE, Evidence, ReportData, Tee
from agent.core.ports import Deadline
from agent.deadline import part
from agent.device.node import Ioctl, kernel_ioctl, opened
from agent.device.qgs import HOST_CID, Connect, QuoteService, vsock
from agent.quotelock import QuoteLock
from agent.retry import CHANCE, persist
from agent.tsm import PAUSES, check_blob
from tdx import report as tdreport

PROVIDER = "tdx_guest"
REQUEST_SIZE = REPORT_DATA_SIZE + tdreport.SIZE
"""Bytes of struct tdx_report_req."""
GET_REPORT0 = 3 << 30 | REQUEST_SIZE << 16 | ord("T") << 8 | 1
"""TDX_CMD_GET_REPORT0: _IOWR('T', 1, struct tdx_report_req)."""
_BUSY = (errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT)


def look(config: EvidenceConfig, _sys: Path) -> None:
    """Returns if the device can be used; asks nothing. Raises DeviceMissing, PermissionMissing, FirmwareError."""
    with opened(config.tdx_device):
        pass


def source(config: EvidenceConfig, lock: QuoteLock, _sys: Path) -> TdxGuestSource:
    """The source that the configuration asks for."""
    return TdxGuestSource(config.tdx_device, lock, port=config.qgs_port, seconds=config.quote_seconds)


class TdxGuestSource:
    """A QuoteSource on ``device`` and the host's quote service at ``port`` (vsock, CID 2), or behind ``connect``.

    One piece of evidence takes ``seconds`` at the most, waiting and retries included.
    """

    tee = Tee.TDX

    def __init__(
        self,
        device: Path,
        lock: QuoteLock,
        *,
        port: int,
        seconds: float = 30.0,
        ioctl: Ioctl = kernel_ioctl,
        connect: Connect | None = None,
        chance: Callable[[], float] = CHANCE,
    ) -> None:
        self.device = device
        self._lock = lock
        self._seconds = seconds
        self._ioctl = ioctl
        self._service = QuoteService(connect or vsock(port), f"quote service at vsock {HOST_CID}:{port}")
        self._chance = chance

    def quote(self, report_data: ReportData, *, deadline: Deadline) -> Evidence:
        """Evidence over ``report_data``; tries again while that may help and time is left.

        Raises DeviceMissing, PermissionMissing, FirmwareError and its kin, FormatError, DeadlineExceeded.
        """
        deadline = part(deadline, self._seconds, "evidence")
        talk = partial(self._evidence, report_data, deadline)
        once = partial(self._lock.alone, deadline, "evidence from the quote service", talk)
        return persist(once, deadline, PAUSES, chance=self._chance)

    def _evidence(self, report_data: ReportData, deadline: Deadline) -> Evidence:
        blob = self._service.quote(self._report(report_data), deadline)
        check_blob(self.tee, blob, report_data, "TDX quote")
        return Evidence(self.tee, blob, b"", PROVIDER)

    def _report(self, report_data: ReportData) -> bytes:
        """A TDREPORT over our data."""
        request = bytearray(report_data.value) + bytes(tdreport.SIZE)
        try:
            with opened(self.device) as fd:
                self._ioctl(fd, GET_REPORT0, request)
        except OSError as error:
            raise failure(error) from error
        report = bytes(request[REPORT_DATA_SIZE:])
        if tdreport.report_data(report) != report_data.value:
            raise FirmwareError("the TDREPORT is not over our REPORT_DATA", code="firmware.other-data")
        return report


def failure(error: OSError) -> TeeAgentError:
    """The typed form of an ioctl's errno."""
    number = error.errno or 0
    name = errno.errorcode.get(number, number)
    if number in _BUSY:
        return FirmwareBusy(
            f"asking for a TDREPORT: the TDX module is busy, or still owes an answer to somebody ({name})",
            errno=number,
            hint="wait and try again: it ends when the host gives the buffer back, at the latest with a reboot",
        )
    hint = "dmesg may hold the TDX module's own status" if number == errno.EIO else ""
    return FirmwareError(f"asking for a TDREPORT: {os.strerror(number)} ({name})", errno=number, hint=hint)
