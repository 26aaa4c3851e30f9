"""TDX quotes from a driver that behaves as Linux's and a quote service behind a real socket."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core import ports
from agent.core.errors import (
    DeadlineExceeded,
    DeviceMissing,
    FirmwareBusy,
    FirmwareError,
    FormatError,
    Oversized,
    PermissionMissing,
    TeeAgentError,
    Truncated,
    UnsupportedVersion,
)
from agent.core.model import Evidence, ReportData, Tee
from agent.deadline import Deadline
from agent.device.qgs import QuoteService, vsock
from agent.device.tdx import TdxGuestSource, failure
from agent.quotelock import QuoteLock
from tdx import qgs
from tdx import report as tdreport
from tdx.abi import Body, Header, signed_part
from tests.unit.device.driver import NULL, TdxDriver, refused

DATA = ReportData(bytes(range(64)))
LOOPBACK = Path("/sys/module/vsock_loopback")
Answer = Callable[[qgs.Request], bytes]


def quote_of(request: qgs.Request) -> bytes:
    """What a quoting enclave makes of a report, the signature aside."""
    body = tdreport.parse(request.report).body(Body)
    return signed_part(Header.build(version=4, tee_type=0x81), body) + bytes(4 + 600)


def good(request: qgs.Request) -> bytes:
    return qgs.frame(qgs.Response(quote_of(request), b"key-id").encode())


class Host:
    """The other end of every connection. It sends ``answers`` in turn, the last one again and again, ``slice`` bytes
    at a time; an empty answer is a hang-up. ``held``: it answers nothing before ``gate`` opens.
    """

    def __init__(self, *answers: Answer, piece: int = 1 << 20, held: bool = False) -> None:
        self.answers, self.piece = list(answers) or [good], piece
        self.gate = threading.Event()
        self.connected = 0
        if not held:
            self.gate.set()

    def connect(self, deadline: ports.Deadline) -> socket.socket:
        assert deadline.remaining() > 0
        assert self.connected < 200, "asked for ever"
        ours, theirs = socket.socketpair()
        answer = self.answers[min(self.connected, len(self.answers) - 1)]
        self.connected += 1
        threading.Thread(target=self._serve, args=(theirs, answer), daemon=True).start()
        return ours

    def _serve(self, connection: socket.socket, answer: Answer) -> None:
        with connection:
            connection.settimeout(30)
            size = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
            request = qgs.parse_request(connection.recv(size, socket.MSG_WAITALL))
            assert self.gate.wait(30)
            data = answer(request)
            try:
                for at in range(0, len(data), self.piece):
                    connection.sendall(data[at : at + self.piece])
            except OSError:
                pass  # the agent has seen enough


def source(
    folder: Path, driver: TdxDriver, host: Host, *, seconds: float = 30.0, chance: float = 0.0
) -> TdxGuestSource:
    lock = QuoteLock(folder / "lock")
    return TdxGuestSource(
        Path(NULL), lock, port=qgs.PORT, seconds=seconds, ioctl=driver, connect=host.connect, chance=lambda: chance
    )


def quote(folder: Path, host: Host, driver: TdxDriver | None = None, seconds: float = 60.0) -> Evidence:
    return source(folder, driver or TdxDriver(), host).quote(DATA, deadline=Deadline(seconds, "test"))


def fails(folder: Path, *answers: Answer) -> TeeAgentError:
    with pytest.raises(TeeAgentError) as caught:
        quote(folder, Host(*answers))
    return caught.value


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
def test_evidence_over_our_data(tmp_path: Path, piece: int) -> None:
    evidence = quote(tmp_path, Host(piece=piece))
    assert (evidence.tee, evidence.auxblob, evidence.provider) == (Tee.TDX, b"", "tdx_guest")
    assert evidence.blob[48 + 520 : 48 + 584] == DATA.value
    assert len(evidence.blob) == 48 + 584 + 604


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT])
def test_a_busy_module_is_tried_again(tmp_path: Path, number: int) -> None:
    driver, host = TdxDriver([number] * 5), Host()
    assert DATA.value in quote(tmp_path, host, driver).blob
    assert (driver.asked, host.connected) == (6, 1)


def test_busy_for_ever(tmp_path: Path) -> None:
    driver = TdxDriver([errno.EBUSY] * 100_000)
    with pytest.raises(DeadlineExceeded, match=r"the last: .*EBUSY") as caught:
        source(tmp_path, driver, Host(), seconds=1.0, chance=0.9).quote(DATA, deadline=Deadline(60, "test"))
    assert "with a reboot" in caught.value.hint


def test_other_errnos_are_final(tmp_path: Path) -> None:
    for number in (errno.EIO, errno.EFAULT, errno.ENOTTY):
        driver = TdxDriver([number])
        with pytest.raises(FirmwareError, match=errno.errorcode[number]) as caught:
            quote(tmp_path, Host(), driver)
        assert (caught.value.errno, driver.asked) == (number, 1)
    assert "dmesg" in failure(refused(errno.EIO)).hint


def test_a_tdreport_that_is_not_ours(tmp_path: Path) -> None:
    def other(report: bytes) -> bytes:
        return report[:128] + bytes(64) + report[192:]

    with pytest.raises(FirmwareError) as caught:
        quote(tmp_path, Host(), TdxDriver(change=other))
    assert caught.value.code == "firmware.other-data"
    with pytest.raises(FormatError, match="not a TD's"):
        quote(tmp_path, Host(), TdxDriver(change=lambda report: b"\0" + report[1:]))


def test_reserved_bytes_of_a_later_tdreport_stop_nothing(tmp_path: Path) -> None:
    driver = TdxDriver(change=lambda report: report[:1020] + b"new!")
    host = Host(lambda _: qgs.frame(qgs.Response(bytes(600) + DATA.value + bytes(600)).encode()))
    assert DATA.value in quote(tmp_path, host, driver).blob


def test_a_quote_over_other_data(tmp_path: Path) -> None:
    error = fails(tmp_path, lambda _: qgs.frame(qgs.Response(bytes(2000)).encode()))
    assert error.code == "firmware.other-data"


def raw(head: int, body: bytes = b"") -> Answer:
    return lambda _: head.to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (raw(qgs.MAX_RESPONSE + 1), Oversized),
        (raw(0xFFFFFFFF), Oversized),
        (raw(0), FormatError),
        (raw(15, bytes(15)), FormatError),
        (raw(24, bytes(10)), Truncated),
        (raw(24, bytes(24)), UnsupportedVersion),
        (lambda request: good(request)[:-1], Truncated),
        (lambda _: b"\0\0", Truncated),
        (lambda request: qgs.frame(request.encode()), FormatError),
        (lambda _: qgs.frame(qgs.Response(DATA.value).encode()), Truncated),
    ],
)
def test_answers_that_are_none(tmp_path: Path, answer: Answer, kind: type[TeeAgentError]) -> None:
    error = fails(tmp_path, answer)
    assert type(error) is kind
    assert error.exit_status == 65


def test_the_largest_quote(tmp_path: Path) -> None:
    quoted = DATA.value.ljust(qgs.MAX_QUOTE, b"\0")
    assert quote(tmp_path, Host(lambda _: qgs.frame(qgs.Response(quoted).encode()))).blob == quoted


@pytest.mark.parametrize(
    ("code", "words"),
    [(0x12001, "unexpected"), (0x12003, "parameter"), (0x1100B, "quoting library"), (0xB011, "does not know")],
)
def test_the_service_s_errors_in_words(tmp_path: Path, code: int, words: str) -> None:
    error = fails(tmp_path, lambda _: qgs.frame(qgs.Response(error_code=code).encode()))
    assert isinstance(error, FirmwareError)
    assert (error.code, error.status, error.retry) == ("firmware.quote-service", code, False)
    assert words in error.message
    assert f"0x{code:x}" in error.message


def test_a_service_that_hangs_up_is_asked_again(tmp_path: Path) -> None:
    host = Host(lambda _: b"", lambda _: b"", good)
    assert DATA.value in quote(tmp_path, host).blob
    assert host.connected == 3


def test_a_service_that_says_nothing(tmp_path: Path) -> None:
    host = Host(held=True)
    with pytest.raises(DeadlineExceeded):
        quote(tmp_path, host, seconds=0.3)
    host.gate.set()
    with QuoteLock(tmp_path / "lock").take(Deadline(30, "ended at its own deadline")):
        pass
    assert DATA.value in quote(tmp_path, host).blob


@pytest.mark.parametrize(
    ("number", "kind", "code", "words"),
    [
        (errno.ECONNRESET, FirmwareBusy, "firmware.busy.quote-service", "qgsd"),
        (errno.ECONNREFUSED, FirmwareBusy, "firmware.busy.quote-service", "qgsd"),
        (errno.ETIMEDOUT, FirmwareBusy, "firmware.busy.quote-service", "qgsd"),
        (errno.ENODEV, DeviceMissing, "platform.device-missing.vsock", "vmw_vsock_virtio_transport"),
        (errno.EAFNOSUPPORT, DeviceMissing, "platform.device-missing.vsock", "vsock device"),
        (errno.EPERM, PermissionMissing, "platform.permission", "AF_VSOCK"),
    ],
)
def test_no_way_to_the_host(tmp_path: Path, number: int, kind: type[TeeAgentError], code: str, words: str) -> None:
    class Closed(Host):
        def connect(self, deadline: ports.Deadline) -> socket.socket:
            self.connected += 1
            raise refused(number)

    host = Closed()
    with pytest.raises(TeeAgentError) as caught:
        source(tmp_path, TdxDriver(), host, seconds=1.0, chance=0.9).quote(DATA, deadline=Deadline(60, "test"))
    error = caught.value if kind is not FirmwareBusy else caught.value.__cause__
    assert type(error) is kind
    assert error.code == code
    assert words in error.hint
    assert "vsock 2:4050" in error.message


REPORT = tdreport.TdReport.build(report_type=tdreport.TYPE_TDX, report_data=DATA.value).data


def test_the_service_is_given_up_at_the_deadline() -> None:
    host = Host(held=True)
    with pytest.raises(DeadlineExceeded, match="the service: no answer in time"):
        QuoteService(host.connect, "the service").quote(REPORT, Deadline(1, "test"))
    host.gate.set()


def test_nobody_at_a_real_vsock() -> None:
    """Whatever this kernel has of vsock: a typed error, in time."""
    with pytest.raises((DeviceMissing, FirmwareBusy, PermissionMissing, DeadlineExceeded)) as caught:
        QuoteService(vsock(1, cid=1), "the service").quote(REPORT, Deadline(0.3, "test"))
    assert caught.value.hint


@pytest.mark.skipif(not LOOPBACK.exists(), reason="this kernel has no vsock loopback (module vsock_loopback)")
def test_over_a_real_vsock(tmp_path: Path) -> None:
    host = Host()
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
        listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        listener.listen()
        port = listener.getsockname()[1]
        threading.Thread(target=lambda: host._serve(listener.accept()[0], good), daemon=True).start()
        asking = TdxGuestSource(
            Path(NULL), QuoteLock(tmp_path / "lock"), port=port, ioctl=TdxDriver(), connect=vsock(port, cid=1)
        )
        assert DATA.value in asking.quote(DATA, deadline=Deadline(60, "test")).blob
