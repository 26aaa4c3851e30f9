"""SNP evidence from a driver that behaves as Linux's: reports, certificates and their size, the privilege level."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent.core.errors import DeadlineExceeded, DeviceMissing, FirmwareError, TeeAgentError, Truncated
from agent.core.model import Evidence, ReportData, Tee
from agent.deadline import Deadline
from agent.device.sev import SevGuestSource
from agent.probe import endorsements_of
from agent.quotelock import QuoteLock
from snp import abi
from snp import guestmsg as msg
from snp.certtable import MAX_SIZE, build
from tests.unit.device.driver import NULL, SevDriver, report

DATA = ReportData(bytes(range(64)))
TABLE = build({"VCEK": b"\x30" + b"v" * 5000, "ASK": b"\x30" + b"a" * 70 + b"\0\0"})
PAGES = 2 * msg.PAGE


def source(
    folder: Path, driver: SevDriver, *, room: int = msg.MAX_CERTS, seconds: float = 30.0, chance: float = 0.0
) -> SevGuestSource:
    return SevGuestSource(
        Path(NULL),
        QuoteLock(folder / "lock"),
        seconds=seconds,
        vmpl_file=folder / "vmpl",
        certificates=room,
        ioctl=driver,
        chance=lambda: chance,
    )


def quote(folder: Path, driver: SevDriver, *, room: int = msg.MAX_CERTS) -> Evidence:
    return source(folder, driver, room=room).quote(DATA, deadline=Deadline(60, "test"))


def fails(folder: Path, driver: SevDriver) -> TeeAgentError:
    with pytest.raises(TeeAgentError) as caught:
        quote(folder, driver)
    return caught.value


def test_evidence_over_our_data(tmp_path: Path) -> None:
    driver = SevDriver()
    evidence = quote(tmp_path, driver)
    assert (evidence.tee, evidence.auxblob, evidence.provider) == (Tee.SNP, b"", "sev_guest")
    assert abi.parse(evidence.blob).report_data == DATA.value
    assert driver.commands == [msg.GET_EXT_REPORT]


def test_certificates_come_in_one_request(tmp_path: Path) -> None:
    driver = SevDriver(table=TABLE)
    evidence = quote(tmp_path, driver)
    assert evidence.auxblob == TABLE  # without the padding, with the zeros that are a certificate's own
    assert len(endorsements_of(evidence).certificates) == 2
    assert driver.rooms == [msg.MAX_CERTS]


@pytest.mark.parametrize("room", [0, msg.PAGE])
def test_the_size_is_negotiated_and_remembered(tmp_path: Path, room: int) -> None:
    driver = SevDriver(table=TABLE)
    asking = source(tmp_path, driver, room=room)
    for _ in range(2):
        assert asking.quote(DATA, deadline=Deadline(60, "test")).auxblob == TABLE
    assert driver.rooms == [room, PAGES, PAGES]
    assert set(driver.commands) == {msg.GET_EXT_REPORT}


def test_no_certificates_need_no_room(tmp_path: Path) -> None:
    driver = SevDriver()
    assert quote(tmp_path, driver, room=0).auxblob == b""
    assert driver.rooms == [0]


@pytest.mark.parametrize("wanted", [0, 1, msg.PAGE - 1, msg.PAGE, PAGES + 1, MAX_SIZE + msg.PAGE, (1 << 32) - msg.PAGE])
def test_a_size_that_makes_no_sense_costs_the_certificates_only(tmp_path: Path, wanted: int) -> None:
    driver = SevDriver(table=TABLE)
    driver.wanted = lambda room: wanted
    evidence = quote(tmp_path, driver, room=msg.PAGE)
    assert evidence.auxblob == b""
    assert abi.parse(evidence.blob).report_data == DATA.value
    assert driver.commands == [msg.GET_EXT_REPORT, msg.GET_REPORT]


def test_a_size_that_always_grows(tmp_path: Path) -> None:
    driver = SevDriver()
    driver.wanted = lambda room: room + msg.PAGE
    assert quote(tmp_path, driver, room=0).auxblob == b""
    assert driver.commands == [*[msg.GET_EXT_REPORT] * 3, msg.GET_REPORT]


def test_more_certificates_than_the_driver_passes_on(tmp_path: Path) -> None:
    driver = SevDriver(table=TABLE.ljust(msg.MAX_CERTS + 1, b"x"))
    assert quote(tmp_path, driver).auxblob == b""
    assert driver.rooms == [msg.MAX_CERTS, msg.MAX_CERTS + msg.PAGE]
    assert driver.commands[-1] == msg.GET_REPORT


def test_the_level_is_the_guest_s_own(tmp_path: Path) -> None:
    for text, level in ((None, 0), ("0\n", 0), ("2\n", 2)):
        if text is not None:
            (tmp_path / "vmpl").write_text(text)
        assert abi.parse(quote(tmp_path, SevDriver()).blob).vmpl == level


@pytest.mark.parametrize("text", ["", "4\n", "-1", "two", "22"])
def test_a_level_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "vmpl").write_text(text)
    error = fails(tmp_path, SevDriver())
    assert isinstance(error, FirmwareError)
    assert "no privilege level" in error.message


def test_a_longer_report_of_a_later_version_passes(tmp_path: Path) -> None:
    longer = SevDriver(response=lambda request: msg.report_response(report(request) + b"later" * 100))
    assert len(quote(tmp_path, longer).blob) == abi.REPORT_SIZE + 500


@pytest.mark.parametrize("size", [0, 1, abi.REPORT_SIZE - 1, msg.REPORT_RESPONSE, (1 << 32) - 1])
def test_a_report_of_impossible_size(tmp_path: Path, size: int) -> None:
    def response(request: msg.ReportRequest) -> bytes:
        whole = msg.report_response(report(request))
        return whole[:4] + size.to_bytes(4, "little") + whole[8:]

    assert isinstance(fails(tmp_path, SevDriver(response=response)), Truncated)


def test_a_report_over_other_data(tmp_path: Path) -> None:
    driver = SevDriver(response=lambda request: msg.report_response(report(request.replace(user_data=bytes(64)))))
    assert fails(tmp_path, driver).code == "firmware.other-data"


@pytest.mark.parametrize(
    ("status", "words", "hint"),
    [(0x16, "a parameter is invalid", "VMPL"), (0x27, "the key asked for is not there", ""), (0x77, "not know", "")],
)
def test_the_firmware_s_status_in_words(tmp_path: Path, status: int, words: str, hint: str) -> None:
    error = fails(tmp_path, SevDriver(response=lambda _: msg.report_response(b"", status)))
    assert isinstance(error, FirmwareError)
    assert (error.status, error.retry) == (status, False)
    assert words in error.message
    assert f"0x{status:x}" in error.message
    assert hint in error.hint


def test_a_device_that_is_not_there_or_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("absent", "file"):
        asking = SevGuestSource(tmp_path / name, QuoteLock(tmp_path / "lock"))
        with pytest.raises(DeviceMissing, match=name) as caught:
            asking.quote(DATA, deadline=Deadline(60, "test"))
        assert caught.value.code == "platform.device-missing.node"


class Stalled(SevDriver):
    """A host that lets the guest wait until ``gate`` opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.entered = threading.Event(), threading.Event()

    def __call__(self, fd: int, command: int, argument: bytearray) -> None:
        self.entered.set()
        assert self.gate.wait(30)
        super().__call__(fd, command, argument)


def test_a_request_is_left_to_its_end_under_the_lock(tmp_path: Path) -> None:
    driver = Stalled()
    asking = source(tmp_path, driver)
    with pytest.raises(DeadlineExceeded, match="evidence from the firmware"):
        asking.quote(DATA, deadline=Deadline(2, "test"))  # time enough to come to the request
    assert driver.entered.is_set()
    with pytest.raises(DeadlineExceeded, match="is locked"):
        asking.quote(DATA, deadline=Deadline(0.2, "test"))
    driver.gate.set()
    with QuoteLock(tmp_path / "lock").take(Deadline(30, "the stalled one")):
        assert driver.commands == [msg.GET_EXT_REPORT]  # it was answered, not asked again
