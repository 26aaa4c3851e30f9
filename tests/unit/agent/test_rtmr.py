"""Registers and event log from fake sysfs trees: what is read, what one extension does, what is missing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.errors import Conflict, DeviceMissing, FirmwareError, FormatError, PermissionMissing, UsageError
from agent.rtmr import Registers, read_event_log
from tdx import ccel, eventlog
from tests.unit.tdx.logs import events
from tests.unit.tdx.test_eventlog import table

NAMES = [f"rtmr{index}:sha384" for index in range(4)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The kernel's folder: four RTMRs, another register, and what is none."""
    for index, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(bytes([index]) * 48)
    (tmp_path / "mrconfigid").write_bytes(bytes(48))
    (tmp_path / "uevent text").write_text("no register")
    return tmp_path


def kernel(fd: int, data: bytes) -> int:
    """What the kernel does with a write: extends."""
    path = Path(f"/proc/self/fd/{fd}").readlink()
    path.write_bytes(eventlog.extend(path.read_bytes(), data))
    return len(data)


def refusing(code: int) -> Callable[[int, bytes], int]:
    def write(fd: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    return write


def test_reads(tree: Path) -> None:
    registers = Registers(tree)
    assert registers.names() == ["mrconfigid", *NAMES]
    assert registers.read() == {index: bytes([index]) * 48 for index in range(4)}
    assert registers.read_all()["mrconfigid"] == bytes(48)
    assert len(registers.read_all()) == 5


@pytest.mark.parametrize("index", [2, 3])
def test_extends_once_and_tells_before_and_after(tree: Path, index: int) -> None:
    registers = Registers(tree, kernel)
    digest = bytes(range(48))
    before, after = registers.extend(index, digest)
    assert (before, after) == (bytes([index]) * 48, eventlog.extend(bytes([index]) * 48, digest))
    assert registers.rtmr(index) == after
    assert {i: v for i, v in registers.read().items() if i != index} == {
        i: bytes([i]) * 48 for i in range(4) if i != index
    }


@pytest.mark.parametrize(("index", "size"), [(0, 48), (1, 48), (4, 48), (-1, 48), (2, 47), (3, 49), (3, 0)])
def test_extends_nothing_else(tree: Path, index: int, size: int) -> None:
    def never(fd: int, data: bytes) -> int:
        raise AssertionError

    with pytest.raises(UsageError, match="RTMR2 or 3"):
        Registers(tree, never).extend(index, bytes(size))


def test_two_at_once_are_told(tree: Path) -> None:
    def twice(fd: int, data: bytes) -> int:
        kernel(fd, data)
        return kernel(fd, data)

    with pytest.raises(Conflict, match="something else extended it") as caught:
        Registers(tree, twice).extend(3, bytes(48))
    assert caught.value.code == "conflict.rtmr"


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (refusing(errno.EPERM), PermissionMissing),
        (refusing(errno.EACCES), PermissionMissing),
        (refusing(errno.EINVAL), FirmwareError),
        (refusing(errno.EIO), FirmwareError),
        (lambda fd, data: 7, FirmwareError),
    ],
)
def test_what_the_kernel_refuses(tree: Path, write: Callable[[int, bytes], int], error: type[Exception]) -> None:
    with pytest.raises(error):
        Registers(tree, write).extend(2, bytes(48))


def test_absent_registers(tmp_path: Path) -> None:
    registers = Registers(tmp_path / "measurements")
    for read in (registers.names, registers.read, registers.read_all):
        with pytest.raises(DeviceMissing) as caught:
            read()
        assert "6.16" in caught.value.hint
    with pytest.raises(DeviceMissing):
        registers.extend(2, bytes(48))
    assert list(tmp_path.iterdir()) == []


def test_registers_of_another_size(tree: Path) -> None:
    (tree / NAMES[1]).write_bytes(bytes(47))
    with pytest.raises(FirmwareError, match="47 bytes"):
        Registers(tree).read()
    (tree / NAMES[1]).write_bytes(bytes(65))
    with pytest.raises(FormatError, match="more than 64"):
        Registers(tree).read()


def acpi(folder: Path, area: bytes, length: int) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "CCEL").write_bytes(table(log_length=length))
    (folder / "data" / "CCEL").write_bytes(area)
    return folder


def test_event_log(tmp_path: Path) -> None:
    area = ccel.build(events(), 4096)
    assert read_event_log(acpi(tmp_path, area, 4096)) == area


def test_event_log_that_is_not_there_or_not_whole(tmp_path: Path) -> None:
    with pytest.raises(DeviceMissing, match="no event log"):
        read_event_log(tmp_path / "absent")
    only_table = acpi(tmp_path / "a", b"", 0)
    (only_table / "data" / "CCEL").unlink()
    with pytest.raises(DeviceMissing, match="data/CCEL"):
        read_event_log(only_table)
    with pytest.raises(FormatError, match="100 bytes, the table says 200"):
        read_event_log(acpi(tmp_path / "b", bytes(100), 200))
    with pytest.raises(FormatError, match="more than"):
        read_event_log(acpi(tmp_path / "c", bytes(ccel.MAX_AREA + 1), ccel.MAX_AREA + 1))
    long_table = acpi(tmp_path / "d", bytes(100), 100)
    (long_table / "CCEL").write_bytes(bytes(1 << 20))
    with pytest.raises(FormatError, match="more than 57"):
        read_event_log(long_table)
    (long_table / "CCEL").write_bytes(bytes(56))
    with pytest.raises(FormatError, match="not a CCEL"):
        read_event_log(long_table)
