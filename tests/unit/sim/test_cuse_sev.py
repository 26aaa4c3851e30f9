"""/dev/sev-guest: what the driver writes where, and the form of each failure."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sim.faults import Faults, FaultyProvider, parse
from sim.psp import GuestOptions
from sim.sev_guest import SevGuest
from snp import abi, certtable
from snp import guestmsg as msg
from tests.support.cuse import Kernel, kernel
from tests.support.simulator import machine

DATA = bytes(range(64))
UNTOUCHED = 0xABCD
"""exitinfo2 before a call: the driver leaves it alone where nothing failed."""


@dataclass
class Caller:
    """A process's buffers, and the kernel it calls."""

    kernel: Kernel
    held: list[object] = field(default_factory=list)

    def buffer(self, data: bytes) -> tuple[ctypes.Array[ctypes.c_char], int]:
        made = ctypes.create_string_buffer(data, len(data))
        self.held.append(made)
        return made, ctypes.addressof(made)

    def call(self, command: int, request: bytes, response: int, *, version: int = 1) -> Answer:
        """One ioctl; an OSError's number is in the answer."""
        asked, asked_at = self.buffer(request)
        answered, answered_at = self.buffer(bytes(response))
        control, _ = self.buffer(
            msg.GuestRequest.build(
                msg_version=version, req_data=asked_at, resp_data=answered_at, exitinfo2=UNTOUCHED
            ).data
        )
        number = 0
        try:
            self.kernel.ioctl(0, command, control)
        except OSError as error:
            number = error.errno or 0
        return Answer(number, msg.GuestRequest(control.raw).exitinfo2, asked.raw, answered.raw)

    def report(self, vmpl: int = 0) -> Answer:
        request = msg.ReportRequest.build(user_data=DATA, vmpl=vmpl).data
        return self.call(msg.GET_REPORT, request, msg.REPORT_RESPONSE)

    def extended(self, certs_len: int, vmpl: int = 0) -> tuple[Answer, bytes]:
        """And the certificate buffer afterwards; certs_len 0: without a buffer."""
        certs, address = self.buffer(b"\xcc" * max(certs_len, 1))
        request = msg.ExtReportRequest.build(
            request=msg.ReportRequest.build(user_data=DATA, vmpl=vmpl).data,
            certs_address=address if certs_len else 0,
            certs_len=certs_len,
        )
        return self.call(msg.GET_EXT_REPORT, request.data, msg.REPORT_RESPONSE), certs.raw

    def key(self, **request: int) -> Answer:
        return self.call(msg.GET_DERIVED_KEY, msg.DerivedKeyRequest.build(**request).data, msg.KEY_RESPONSE)


@dataclass(frozen=True)
class Answer:
    errno: int
    exitinfo2: int
    request: bytes
    response: bytes


@pytest.fixture
def faults() -> Iterator[Faults]:
    line = Faults()
    yield line
    line.clear()


@pytest.fixture
def caller(pki_state: Path, faults: Faults) -> Caller:
    return plugged(pki_state, faults)


def plugged(pki_state: Path, faults: Faults, options: GuestOptions | None = None) -> Caller:
    hardware = machine("snp", pki_state, options)
    return Caller(kernel(SevGuest(FaultyProvider(hardware, faults), faults, b"s" * 32)))


def test_report(caller: Caller) -> None:
    answer = caller.report(vmpl=2)
    report = abi.parse(msg.report_of(answer.response))
    assert (answer.errno, answer.exitinfo2) == (0, UNTOUCHED)
    assert (report.report_data, report.vmpl) == (DATA, 2)


def test_certificates_are_negotiated(caller: Caller) -> None:
    """No room, then a page: EIO with INVALID_LEN in the upper half and the size wanted; then all of them."""
    for room in (0, msg.PAGE):
        answer, certs = caller.extended(room)
        assert (answer.errno, msg.split(answer.exitinfo2)) == (errno.EIO, (msg.VMM_INVALID_LEN, 0))
        assert answer.response == bytes(msg.REPORT_RESPONSE)
        assert certs.strip(b"\xcc") == b""
    wanted = msg.ExtReportRequest(answer.request).certs_len
    assert (wanted % msg.PAGE, wanted > msg.PAGE) == (0, True)
    answer, certs = caller.extended(wanted)
    assert (answer.errno, answer.exitinfo2) == (0, UNTOUCHED)
    assert abi.parse(msg.report_of(answer.response)).report_data == DATA
    assert set(certtable.parse(certs)) == {certtable.GUIDS[name] for name in ("ARK", "ASK", "VCEK")}


def test_a_host_without_certificates(caller: Caller, faults: Faults) -> None:
    faults.add(parse("no-certs"))
    for room in (0, msg.PAGE):
        answer, certs = caller.extended(room)
        assert answer.errno == 0
        assert certs == (bytes(room) or b"\xcc")


@pytest.mark.parametrize("size", [1, msg.PAGE + 1, msg.MAX_CERTS + msg.PAGE])
def test_only_whole_pages_and_not_too_many(caller: Caller, size: int) -> None:
    assert caller.extended(size)[0].errno == errno.EINVAL


def test_never_enough_room(caller: Caller, faults: Faults) -> None:
    faults.add(parse("invalid-len"))
    for room in (msg.PAGE, msg.MAX_CERTS):
        answer, _ = caller.extended(room)
        assert (answer.errno, msg.split(answer.exitinfo2)) == (errno.EIO, (msg.VMM_INVALID_LEN, 0))
        assert msg.ExtReportRequest(answer.request).certs_len > room


@pytest.mark.parametrize("vmpl", [0, 4])
def test_the_firmware_refuses_a_privilege_level(pki_state: Path, faults: Faults, vmpl: int) -> None:
    """The ioctl succeeds; the status says it."""
    below = plugged(pki_state, faults, GuestOptions(vmpl_floor=1))
    for answer in (below.report(vmpl), below.extended(msg.MAX_CERTS, vmpl)[0]):
        assert answer.errno == 0
        assert msg.ReportHead.parse_prefix(answer.response).status == msg.FW_INVALID_PARAM
    key = below.key(vmpl=vmpl)
    assert (key.errno, msg.KeyResponse(key.response).status) == (0, msg.FW_INVALID_PARAM)


@pytest.mark.parametrize(
    ("fault", "number", "halves"),
    [
        ("ebusy", errno.EIO, (msg.VMM_BUSY, 0)),
        ("eio", errno.EIO, (0, 0x13)),
        ("etimedout", errno.ETIMEDOUT, (msg.VMM_BUSY, 0)),
        ("eintr", errno.EINTR, (0, msg.FW_NO_CALL)),
        ("enotty", errno.ENOTTY, msg.split(UNTOUCHED)),
    ],
)
def test_faults(caller: Caller, faults: Faults, fault: str, number: int, halves: tuple[int, int]) -> None:
    """ETIMEDOUT and a lost key (ENOTTY) are told apart; only what reached the firmware brings exitinfo2."""
    calls: list[Callable[[], Answer]] = [caller.report, lambda: caller.extended(msg.PAGE)[0], caller.key]
    for call in calls:
        faults.add(parse(fault))
        answer = call()
        assert (answer.errno, msg.split(answer.exitinfo2)) == (number, halves)
    assert caller.report().errno == 0


def test_a_cut_answer(caller: Caller, faults: Faults) -> None:
    """The firmware's word for its size goes with it; a key can't be had from one."""
    faults.add(parse("short-read:2:7"))
    answer = caller.report()
    assert msg.ReportHead.parse_prefix(answer.response).report_size == 7
    assert caller.key().errno == errno.EIO
    assert caller.key().errno == 0


def test_the_drivers_own_refusals(caller: Caller) -> None:
    request = msg.ReportRequest.build(user_data=DATA).data
    assert caller.call(msg.GET_REPORT, request, msg.REPORT_RESPONSE, version=0).errno == errno.EINVAL
    assert caller.call(0xC0205303, request, msg.REPORT_RESPONSE).errno == errno.ENOTTY
    control, _ = caller.buffer(msg.GuestRequest.build(msg_version=1).data)
    with pytest.raises(OSError) as caught:
        caller.kernel.ioctl(0, msg.GET_REPORT, control)
    assert caught.value.errno == errno.EINVAL


def test_derived_keys_depend_on_what_is_selected(caller: Caller) -> None:
    def key(**request: int) -> bytes:
        answer = caller.key(**request)
        response = msg.KeyResponse(answer.response)
        assert (answer.errno, response.status) == (0, 0)
        return response.key

    svn = msg.field_select(["guest_svn"])
    assert key() == key() == key(guest_svn=7), "not selected, so it does not count"
    different = [
        key(),
        key(root_key_select=1),
        key(vmpl=1),
        key(guest_field_select=svn),
        key(guest_field_select=svn, guest_svn=7),
        key(guest_field_select=msg.field_select(["measurement", "policy"])),
        key(guest_field_select=msg.field_select(["tcb_version"]), tcb_version=7),
    ]
    assert len(set(different)) == len(different)
