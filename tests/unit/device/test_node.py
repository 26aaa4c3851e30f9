"""A device opened and asked for real: the kernel's own ioctl, addresses, and refusals."""

from __future__ import annotations

import errno
import fcntl
import os
import termios
from pathlib import Path

import pytest

from agent.core.errors import DeviceMissing, FirmwareBusy, FirmwareError, PermissionMissing, TeeAgentError
from agent.device.node import address, kernel_ioctl, opened
from tests.unit.device.driver import NULL, memory, refused, write


def test_an_ioctl_changes_its_argument() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"five!")
        argument = bytearray(4)
        kernel_ioctl(reader, termios.FIONREAD, argument)
        assert int.from_bytes(argument, "little") == 5
    finally:
        os.close(reader)
        os.close(writer)


def test_the_kernel_s_errno_comes_through() -> None:
    with opened(Path(NULL)) as fd, pytest.raises(OSError, match="Inappropriate") as caught:
        kernel_ioctl(fd, 0xC0205300, bytearray(32))
    assert caught.value.errno == errno.ENOTTY


def test_an_address_is_the_buffer_s() -> None:
    buffer = bytearray(b"abcd")
    assert memory(address(buffer), 4) == b"abcd"
    write(address(buffer) + 1, b"X")
    assert buffer == b"aXcd"


def test_what_is_opened_is_closed_and_not_inherited() -> None:
    with opened(Path(NULL)) as fd:
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOENT, DeviceMissing, "modprobe sev-guest"),
        (errno.ENXIO, DeviceMissing, "modprobe sev-guest"),
        (errno.EACCES, PermissionMissing, "DeviceAllow="),
        (errno.EPERM, PermissionMissing, "run as root"),
        (errno.EBUSY, FirmwareBusy, "try again"),
        (errno.EIO, FirmwareError, ""),
    ],
)
def test_refusals_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, kind: type[TeeAgentError], words: str
) -> None:
    def refuse(*_: object) -> int:
        raise refused(number)

    (tmp_path / "sev-guest").symlink_to(NULL)
    monkeypatch.setattr("agent.device.node.os.open", refuse)
    with pytest.raises(TeeAgentError) as caught, opened(tmp_path / "sev-guest"):
        pass
    assert type(caught.value) is kind
    assert "sev-guest" in caught.value.message
    assert words in caught.value.hint


def test_the_module_is_named_by_the_device(tmp_path: Path) -> None:
    for name, words in (("tdx_guest", "modprobe tdx-guest"), ("other", "sev-guest, or modprobe tdx-guest")):
        with pytest.raises(DeviceMissing) as caught, opened(tmp_path / name):
            pass
        assert words in caught.value.hint
