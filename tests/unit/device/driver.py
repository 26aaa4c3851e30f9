"""The guest drivers' side of an ioctl, as Linux's behave: it reads and writes through the addresses it is given."""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque
from collections.abc import Callable, Iterable

from snp import guestmsg as msg
from snp.abi import Report
from tdx.report import TYPE_TDX, TdReport

NULL = "/dev/null"
"""A character device that may be opened: what answers is the driver given to the source."""
LIMIT = 200


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def memory(address: int, size: int) -> bytes:
    assert address
    return ctypes.string_at(address, size)


def write(address: int, data: bytes) -> None:
    assert address
    ctypes.memmove(address, data, len(data))


def report(request: msg.ReportRequest) -> bytes:
    return Report.build(report_data=request.user_data, vmpl=request.vmpl).data


class SevDriver:
    """drivers/virt/coco/sev-guest: ``faults`` are (errno, exitinfo2) of the next requests that reach the host.

    ``wipes``: it loses its key after a failed request (every kernel with the AES-GCM fix). ``table`` is what the host
    has as certificates, ``wanted`` what it says of a room (None: enough). ``response`` makes the firmware's answer.
    """

    def __init__(
        self,
        faults: Iterable[tuple[int, int]] = (),
        *,
        table: bytes = b"",
        wipes: bool = False,
        response: Callable[[msg.ReportRequest], bytes] = lambda request: msg.report_response(report(request)),
        key: bytes = msg.key_response(b"k" * msg.KEY_SIZE),
    ) -> None:
        self.faults = deque(faults)
        self.table, self.wipes, self.response, self.key = table, wipes, response, key
        self.commands: list[int] = []
        self.rooms: list[int] = []
        self.keys: list[msg.DerivedKeyRequest] = []
        self.lost = False
        self.wanted: Callable[[int], int | None] = self.needed

    def __call__(self, fd: int, command: int, argument: bytearray) -> None:
        assert os.fstat(fd)
        assert len(self.commands) < LIMIT, "asked for ever"
        self.commands.append(command)
        control = msg.GuestRequest.parse(bytes(argument))
        assert control.msg_version == 1
        try:
            self._serve(command, control)
        except Failed as failed:
            argument[24:32] = failed.word.to_bytes(8, "little")
            raise refused(failed.number) from None

    def _serve(self, command: int, control: msg.GuestRequest) -> None:
        if command == msg.GET_EXT_REPORT:
            self._extended(control)
        elif command == msg.GET_REPORT:
            request = msg.ReportRequest.parse(memory(control.req_data, msg.ReportRequest.SIZE))
            self._firmware()
            write(control.resp_data, self.response(request))
        elif command == msg.GET_DERIVED_KEY:
            self.keys.append(msg.DerivedKeyRequest.parse(memory(control.req_data, msg.DerivedKeyRequest.SIZE)))
            self._firmware()
            write(control.resp_data, self.key)
        else:
            raise Failed(errno.ENOTTY)

    def _extended(self, control: msg.GuestRequest) -> None:
        asked = msg.ExtReportRequest.parse(memory(control.req_data, msg.ExtReportRequest.SIZE))
        room = asked.certs_len if asked.certs_address else 0
        self.rooms.append(room)
        if room > msg.MAX_CERTS or room % msg.PAGE:
            raise Failed(errno.EINVAL, 0xFF)
        self._firmware()
        if (wanted := self.wanted(room)) is not None:
            again = msg.ExtReportRequest.build(
                request=asked.request, certs_address=asked.certs_address, certs_len=wanted
            )
            write(control.req_data, again.data)
            raise Failed(errno.EIO, msg.exitinfo2(vmm=msg.VMM_INVALID_LEN))
        if room:
            write(asked.certs_address, self.table.ljust(room, b"\0"))
        write(control.resp_data, self.response(msg.ReportRequest.parse(asked.request)))

    def needed(self, room: int) -> int | None:
        """Bytes that the certificates need, if ``room`` is less."""
        pages = -(-len(self.table) // msg.PAGE)
        return pages * msg.PAGE if pages * msg.PAGE > room else None

    def _firmware(self) -> None:
        if self.lost:
            raise Failed(errno.ENOTTY, 0xFF)
        if self.faults:
            number, word = self.faults.popleft()
            self.lost = self.wipes
            raise Failed(number, word)


class Failed(Exception):
    """errno and exitinfo2 of a refusal."""

    def __init__(self, number: int, word: int = 0) -> None:
        super().__init__(number, word)
        self.number, self.word = number, word


class TdxDriver:
    """drivers/virt/coco/tdx-guest: ``faults`` are the errnos of the next requests."""

    def __init__(self, faults: Iterable[int] = (), change: Callable[[bytes], bytes] = lambda report: report) -> None:
        self.faults, self.change = deque(faults), change
        self.asked = 0

    def __call__(self, fd: int, command: int, argument: bytearray) -> None:
        assert os.fstat(fd)
        assert command == 0xC4405401  # _IOWR('T', 1, 64 + 1024 bytes)
        assert len(argument) == 64 + 1024
        assert self.asked < LIMIT, "asked for ever"
        self.asked += 1
        if self.faults:
            raise refused(self.faults.popleft())
        made = TdReport.build(report_type=TYPE_TDX, version=1, report_data=bytes(argument[:64])).with_hashes()
        argument[64:] = self.change(made.data)
