"""Devices, key files, the copy in RAM, the measured boot: one small thing each."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import Denied, DiskError, PermissionMissing, UsageError
from agent.deadline import Deadline
from agent.disk import device, measured, passphrase, unlock
from agent.disk.listing import list_volumes
from agent.disk.measured import Measured
from agent.disk.ramcopy import ram_copy
from tests.support import luks


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "data.img"
    with path.open("wb") as file:
        file.truncate(luks.IMAGE_BYTES)
        file.write(luks.header_bytes(*luks.sample()))
    return path


def test_a_device_is_what_its_links_end_at(image: Path) -> None:
    link = image.with_name("link")
    link.symlink_to(image)
    with device.opened(str(link)) as opened:
        assert (opened.path, opened.size, opened.is_block) == (image, luks.IMAGE_BYTES, False)
        assert opened.read(0, 6) == b"LUKS\xba\xbe"
        assert opened.read(luks.IMAGE_BYTES - 2, 10) == b"\0\0"
        assert opened.header().uuid == luks.UUID


def test_a_uuid_is_looked_up_in_lower_case(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (image.parent / luks.UUID).symlink_to(image)
    monkeypatch.setattr(device, "BY_UUID", image.parent)
    assert device.locate(f"UUID={luks.UUID.upper()}") == image


def test_what_is_not_there_or_no_device(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "absent", loop):
        with pytest.raises(DiskError, match="no such device"), device.opened(str(path)):
            pass
    with pytest.raises(DiskError, match="neither"), device.opened(str(pipe)):
        pass
    with pytest.raises(DiskError, match="cannot be opened"), device.opened(str(tmp_path), write=True):
        pass


def test_a_read_error_is_typed(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with device.opened(str(image)) as opened:
        monkeypatch.setattr(os, "pread", fail)
        with pytest.raises(DiskError, match="cannot be read at byte 0: Input/output error"):
            opened.header()


def test_a_lock_needs_a_writable_device(image: Path) -> None:
    with device.opened(str(image)) as opened, pytest.raises(DiskError, match="cannot be locked"):
        opened.lock(Deadline(1, "test"))


def test_not_permitted(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionMissing, match="not permitted"), device.opened(str(image)):
        pass


def test_no_room_for_the_copy(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with device.opened(str(image)) as opened:
        header = opened.header()
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(DiskError, match="no room for the header in memory"), ram_copy(opened, header, (1,)):
            pass


@pytest.mark.parametrize(("error", "found"), [(errno.ENXIO, False), (errno.ENODEV, False), (errno.EACCES, True)])
def test_device_mapper_is_found_by_opening_it(monkeypatch: pytest.MonkeyPatch, error: int, found: bool) -> None:
    def fail(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", fail)
    assert unlock._has_device_mapper() is found


@pytest.mark.parametrize(("listed", "found"), [("235 fuse\n236 device-mapper\n", True), ("235 fuse\n", False)])
def test_device_mapper_without_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, found: bool
) -> None:
    (tmp_path / "misc").write_text(listed)
    monkeypatch.setattr(unlock, "MAPPER", tmp_path)
    monkeypatch.setattr(unlock, "MISC_DEVICES", tmp_path / "misc")
    assert unlock._has_device_mapper() is found


def test_a_refused_header_is_listed_as_such(image: Path) -> None:
    luks.rewrite(image, lambda document: document["segments"]["0"].update(encryption="cipher_null-ecb"))
    (one,) = list_volumes([luks.volume(image)])
    assert (one.state, one.slot) == ("refused", -1)
    assert "cipher_null-ecb" in one.problem


def test_the_copy_is_sealed_and_sparse(image: Path) -> None:
    with device.opened(str(image)) as opened, ram_copy(opened, opened.header(), (1,)) as copy:
        status = os.fstat(copy.fd)
        assert status.st_size == 16 << 20
        assert status.st_blocks * 512 < 1 << 20
        for change in (
            lambda: os.pwrite(copy.fd, b"x", 0),
            lambda: os.ftruncate(copy.fd, 0),
            lambda: os.ftruncate(copy.fd, 32 << 20),
        ):
            with pytest.raises(PermissionError):
                change()
        fd = copy.fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_key_file_counts_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"pass\n\0")
    with passphrase.from_file(path) as secret:
        assert secret.reveal() == b"pass\n\0"


def test_standard_input_is_a_key_file(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)
    monkeypatch.setattr(passphrase, "_STDIN", reader)
    assert passphrase.from_file(Path("-")).reveal() == b"piped"
    os.close(reader)


def test_key_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "large").open("wb") as file:
        file.truncate(passphrase.MAX_BYTES + 1)
    for name, said in [("empty", "is empty"), ("large", "more than"), ("absent", "cannot be read"), (".", "cannot be")]:
        with pytest.raises(UsageError, match=said):
            passphrase.from_file(tmp_path / name)


def test_a_typed_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def tty(path: Path, *arguments: Any) -> Any:
        return io.BytesIO() if path == Path("/dev/tty") else real(path, *arguments)

    monkeypatch.setattr(Path, "open", tty)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "grün")
    assert passphrase.from_terminal("? ").reveal() == "grün".encode()
    monkeypatch.setattr("getpass.getpass", lambda prompt: "")
    with pytest.raises(UsageError, match="empty"):
        passphrase.from_terminal("? ")


def test_no_terminal_to_ask_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(path: Path, *_: object) -> None:
        raise OSError(errno.ENXIO, "No such device or address")

    monkeypatch.setattr(Path, "open", none)
    with pytest.raises(UsageError, match="no terminal") as caught:
        passphrase.from_terminal("? ")
    assert caught.value.hint == "use --key-file"


def test_this_boot_is_not_known_to_be_measured() -> None:
    assert measured.UNKNOWN.state == "unknown"


@pytest.mark.parametrize("state", ["no", "unknown"])
def test_unmeasured_boots_need_a_word(state: Any) -> None:
    with pytest.raises(Denied, match=f"initramfs measured: {state}: because"):
        measured.require(Measured(state, "because"), unmeasured_boot=False)
    measured.require(Measured(state, "because"), unmeasured_boot=True)
    measured.require(Measured("yes", ""), unmeasured_boot=False)
