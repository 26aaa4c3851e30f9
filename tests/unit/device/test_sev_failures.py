"""What goes wrong between driver, host and firmware: what is tried again, what is final, and how each is told."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from agent.core.errors import DeadlineExceeded, FirmwareBusy, FirmwareError, FormatError, PermissionMissing
from agent.deadline import Deadline
from agent.device.sev import failure
from snp import guestmsg as msg
from tests.unit.device.driver import SevDriver, refused
from tests.unit.device.test_sev import DATA, fails, quote, source

BUSY = msg.exitinfo2(vmm=msg.VMM_BUSY)
LOST = "firmware.vmpck-lost"


@pytest.mark.parametrize(
    "fault",
    [(errno.EIO, BUSY), (errno.EBUSY, 0), (errno.EAGAIN, 0), (errno.EINTR, 0xFF), (errno.ETIMEDOUT, BUSY)],
)
def test_what_is_tried_again(tmp_path: Path, fault: tuple[int, int]) -> None:
    driver = SevDriver([fault] * 3)
    assert DATA.value in quote(tmp_path, driver).blob
    assert driver.commands == [msg.GET_EXT_REPORT] * 4


def test_throttled_for_ever(tmp_path: Path) -> None:
    with pytest.raises(DeadlineExceeded, match="throttling") as caught:
        source(tmp_path, SevDriver([(errno.EIO, BUSY)] * 100_000), seconds=1.0, chance=0.9).quote(
            DATA, deadline=Deadline(60, "test")
        )
    assert "EIO" in caught.value.message
    assert "wait and try again" in caught.value.hint


@pytest.mark.parametrize(
    ("number", "word"), [(errno.ETIMEDOUT, BUSY), (errno.EIO, BUSY), (errno.EINTR, msg.FW_NO_CALL)]
)
def test_a_key_wiped_after_a_failure_is_told_as_such(tmp_path: Path, number: int, word: int) -> None:
    error = fails(tmp_path, SevDriver([(number, word)], wipes=True))
    assert isinstance(error, FirmwareError)
    assert (error.code, error.errno, error.retry) == (LOST, errno.ENOTTY, False)
    assert "VMPCK" in error.message
    assert "until a reboot" in error.hint


def test_a_timeout_has_a_code_of_its_own() -> None:
    error = failure(refused(errno.ETIMEDOUT), BUSY)
    assert isinstance(error, FirmwareBusy)
    assert error.code == "firmware.busy.timeout"
    assert LOST in error.hint
    assert "until a reboot" in error.hint


@pytest.mark.parametrize(
    ("number", "word", "code", "words"),
    [
        (errno.ENOTTY, 0xFF, LOST, "Inappropriate ioctl"),
        (errno.EBADMSG, 0, LOST, "Bad message"),
        (errno.EIO, msg.exitinfo2(firmware=0x1D), LOST, "counter has overflowed"),
        (errno.EIO, msg.exitinfo2(firmware=0x27), LOST, "key asked for is not there"),
        (errno.EIO, 0xFF, LOST, "the firmware was not called"),
        (errno.EIO, msg.FW_NO_CALL, LOST, "the firmware was not called"),
        (errno.EIO, msg.exitinfo2(firmware=0x13), "firmware.request", "hardware error"),
        (errno.EIO, msg.exitinfo2(firmware=0x99), "firmware.request", "does not know (firmware 0x99)"),
        (errno.EIO, msg.exitinfo2(vmm=1 << 31), "firmware.request", "the host failed (VMM 0x80000000)"),
        (errno.EIO, msg.exitinfo2(vmm=77), "firmware.request", "the host refused (VMM 0x4d)"),
        (errno.EIO, 0, "firmware.request", "Input/output error"),
        (errno.ENOMEM, 0, "firmware", "Cannot allocate memory"),
    ],
)
def test_final_failures_in_words(tmp_path: Path, number: int, word: int, code: str, words: str) -> None:
    error = failure(refused(number), word)
    assert type(error) is FirmwareError
    assert (error.code, error.errno, error.retry) == (code, number, False)
    assert words in error.message
    assert errno.errorcode[number] in error.message
    assert ("until a reboot" in error.hint) == (code != "firmware")
    if number != errno.ENOTTY:  # which, of an extended request, may also mean that it is not known
        driver = SevDriver([(number, word)])
        assert fails(tmp_path, driver).code == code
        assert len(driver.commands) == 1


def test_a_driver_without_extended_reports(tmp_path: Path) -> None:
    driver = SevDriver([(errno.ENOTTY, 0)])
    assert DATA.value in quote(tmp_path, driver).blob
    assert driver.commands == [msg.GET_EXT_REPORT, msg.GET_REPORT]


def test_a_derived_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.device.sev.os.geteuid", lambda: 0)
    (tmp_path / "vmpl").write_text("1\n")
    driver = SevDriver([(errno.EIO, BUSY)])
    asking = source(tmp_path, driver)
    with asking.derived_key(
        ("measurement", "tcb_version"), root="vmrk", guest_svn=7, tcb_version=0xDB18000000000004, deadline=soon()
    ) as key:
        assert key.reveal() == b"k" * 32
        assert "k" * 4 not in repr(key)
    asked = driver.keys[-1]
    assert (asked.root_key_select, asked.guest_field_select) == (1, 0b101000)
    assert (asked.vmpl, asked.guest_svn, asked.tcb_version) == (1, 7, 0xDB18000000000004)
    assert driver.commands == [msg.GET_DERIVED_KEY] * 2
    asking.derived_key((), vmpl=3, deadline=soon()).wipe()
    assert driver.keys[-1] == msg.DerivedKeyRequest.build(vmpl=3)


def soon() -> Deadline:
    return Deadline(60, "test")


def test_a_key_that_the_firmware_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.device.sev.os.geteuid", lambda: 0)
    with pytest.raises(FirmwareError, match="refused") as caught:
        source(tmp_path, SevDriver(key=msg.key_response(bytes(32), 0x16))).derived_key((), deadline=soon())
    assert caught.value.status == 0x16


def test_keys_are_root_s_and_well_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = SevDriver()
    asking = source(tmp_path, driver)
    monkeypatch.setattr("agent.device.sev.os.geteuid", lambda: 1000)
    with pytest.raises(PermissionMissing):
        asking.derived_key((), deadline=soon())
    monkeypatch.setattr("agent.device.sev.os.geteuid", lambda: 0)
    with pytest.raises(FormatError, match="'hostname'"):
        asking.derived_key(("hostname",), deadline=soon())
    with pytest.raises(FormatError, match="'ark'"):
        asking.derived_key((), root="ark", deadline=soon())
    for level, svn, tcb in ((4, 0, 0), (-1, 0, 0), (0, 1 << 32, 0), (0, 0, -1), (0, 0, 1 << 64)):
        with pytest.raises(FormatError, match="out of bounds"):
            asking.derived_key((), vmpl=level, guest_svn=svn, tcb_version=tcb, deadline=soon())
    assert driver.commands == []
