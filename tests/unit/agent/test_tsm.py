"""Entries and their hostile content on plain files, and the lock file. Faults proper: tests/integration/test_tsm.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import (
    DeadlineExceeded,
    FirmwareBusy,
    FirmwareError,
    GenerationRace,
    NoTee,
    PermissionMissing,
    PlatformError,
    TeeAgentError,
    Truncated,
)
from agent.core.model import ReportData, Tee
from agent.deadline import Deadline
from agent.quotelock import QuoteLock
from agent.tsm import MAX_BLOB, Entry, TsmSource, firmware_error, mkdir_error, sweep

DATA = ReportData(bytes(range(64)))
GOOD = b"\0" * 80 + DATA.value + b"\0" * 1040


def entry(folder: Path, **files: bytes) -> Entry:
    """An entry whose files are plain ones: what is written to it changes no generation."""
    result = Entry(folder)
    result.path = folder / "entry"
    result.path.mkdir()
    for name, data in {"generation": b"0\n", "provider": b"sev_guest\n", "inblob": b"", **files}.items():
        (result.path / name).write_bytes(data)
    return result


def test_a_generation_that_does_not_count_our_writes(tmp_path: Path) -> None:
    with pytest.raises(GenerationRace, match="generation is 0, not 1") as caught:
        entry(tmp_path, outblob=GOOD).evidence(Tee.SNP, DATA)
    assert caught.value.retry


def test_both_writes_are_counted(tmp_path: Path) -> None:
    made = entry(tmp_path, outblob=GOOD, privlevel=b"", privlevel_floor=b"2\n")
    with pytest.raises(GenerationRace, match="generation is 0, not 2"):
        made.evidence(Tee.SNP, DATA)
    assert (made.path / "privlevel").read_bytes() == b"2"
    assert (made.path / "inblob").read_bytes() == DATA.value


class Counting(Entry):
    """Plain files with a generation that counts writes, and an intruder's write after ``intruder`` generation reads."""

    intruder = 99

    def _generation(self) -> int:
        self.intruder -= 1
        return 7 + self._writes + (self.intruder < 0)


def counting(folder: Path, **files: bytes) -> Counting:
    made = entry(folder, **files)
    result = Counting(folder)
    result.path = made.path
    return result


def test_generations_need_not_begin_at_zero(tmp_path: Path) -> None:
    got = counting(tmp_path, outblob=GOOD, auxblob=b"table").evidence(Tee.SNP, DATA)
    assert (got.tee, got.blob, got.auxblob, got.provider) == (Tee.SNP, GOOD, b"table", "sev_guest")


@pytest.mark.parametrize("reads", [1, 2])
def test_an_intruder_before_or_after_the_blobs(tmp_path: Path, reads: int) -> None:
    made = counting(tmp_path, outblob=GOOD)
    made.intruder = reads
    with pytest.raises(GenerationRace, match="generation is 9, not 8"):
        made.evidence(Tee.SNP, DATA)


@pytest.mark.parametrize(("tee", "size"), [(Tee.SNP, 0), (Tee.SNP, 1183), (Tee.TDX, 0), (Tee.TDX, 635)])
def test_short_evidence(tmp_path: Path, tee: Tee, size: int) -> None:
    with pytest.raises(Truncated):
        counting(tmp_path, outblob=GOOD[:size]).evidence(tee, DATA)


def test_evidence_over_other_data(tmp_path: Path) -> None:
    with pytest.raises(FirmwareError) as caught:
        counting(tmp_path, outblob=bytes(1184)).evidence(Tee.SNP, DATA)
    assert caught.value.code == "firmware.other-data"


@pytest.mark.parametrize("name", ["outblob", "auxblob"])
def test_blobs_are_bounded(tmp_path: Path, name: str) -> None:
    files = {"outblob": GOOD, name: GOOD + bytes(MAX_BLOB - len(GOOD))}
    assert counting(tmp_path, **files).evidence(Tee.SNP, DATA)
    (tmp_path / "entry" / name).write_bytes(GOOD + bytes(MAX_BLOB + 1 - len(GOOD)))
    made = Counting(tmp_path)
    made.path = tmp_path / "entry"
    with pytest.raises(FirmwareError, match=name) as caught:
        made.evidence(Tee.SNP, DATA)
    assert caught.value.code == "firmware.too-large"


@pytest.mark.parametrize("name", ["generation", "privlevel_floor"])
@pytest.mark.parametrize("text", [b"", b"-1", b"0x1", b"\xff", b"1 2", "٣".encode(), b"9" * 65])
def test_numbers_that_are_none(tmp_path: Path, name: str, text: bytes) -> None:
    with pytest.raises(FirmwareError):
        entry(tmp_path, outblob=GOOD, privlevel=b"", **{name: text}).evidence(Tee.SNP, DATA)


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    made = counting(tmp_path)
    (tmp_path / "elsewhere").write_bytes(GOOD)
    (made.path / "outblob").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FirmwareError, match="ELOOP"):
        made.evidence(Tee.SNP, DATA)


def test_a_missing_attribute(tmp_path: Path) -> None:
    with pytest.raises(FirmwareError, match="vanished") as caught:
        counting(tmp_path).evidence(Tee.SNP, DATA)
    assert caught.value.errno == errno.ENOENT


def test_an_inblob_that_cannot_be_written(tmp_path: Path) -> None:
    made = counting(tmp_path, outblob=GOOD)
    (made.path / "inblob").unlink()
    with pytest.raises(FirmwareError, match="writing inblob: our entry vanished"):
        made.evidence(Tee.SNP, DATA)


def test_an_inblob_that_takes_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.tsm.os.write", lambda *_: 63)
    with pytest.raises(FirmwareError, match="63 of 64 bytes"):
        counting(tmp_path, outblob=GOOD).evidence(Tee.SNP, DATA)


def test_an_entry_is_never_removed_with_content(tmp_path: Path) -> None:
    with Entry(tmp_path) as made:
        (made.path / "precious").touch()
    assert (made.path / "precious").exists()


def test_names_are_random_and_ours(tmp_path: Path) -> None:
    names = {Entry(tmp_path).path.name for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("tee-agent-quote-") for name in names)


def test_sweep_removes_left_quotes_and_nothing_else(tmp_path: Path) -> None:
    for name in ("tee-agent-quote-1", "tee-agent-probe-1", "somebody-else", "tee-agent-quote-2"):
        (tmp_path / name).mkdir()
    (tmp_path / "tee-agent-quote-2" / "in-use").touch()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tee-agent-probe-1", "somebody-else", "tee-agent-quote-2"}
    sweep(tmp_path / "absent")


@pytest.mark.parametrize(
    ("number", "kind", "retry"),
    [
        (errno.EBUSY, FirmwareBusy, True),
        (errno.EINTR, FirmwareBusy, True),
        (errno.EAGAIN, FirmwareBusy, True),
        (errno.ETIMEDOUT, FirmwareBusy, True),
        (errno.EINVAL, FirmwareError, False),
        (errno.ENXIO, FirmwareError, False),
        (errno.EIO, FirmwareError, False),
        (errno.ENOTCONN, FirmwareError, False),
        (errno.EACCES, PermissionMissing, False),
        (errno.EPERM, PermissionMissing, False),
    ],
)
def test_errnos_in_words(number: int, kind: type[TeeAgentError], retry: bool) -> None:
    error = firmware_error(OSError(number, "x"), "reading outblob")
    assert type(error) is kind
    assert error.retry is retry
    assert errno.errorcode[number] in error.message
    assert error.message.startswith("reading outblob: ")
    assert getattr(error, "errno", number) == number


def test_a_lost_key_is_final_until_a_reboot() -> None:
    error = firmware_error(OSError(errno.ENOTTY, "x"), "reading outblob")
    assert (type(error), error.code, error.retry) == (FirmwareError, "firmware.vmpck-lost", False)
    assert "VMPCK" in error.message
    assert "until a reboot" in error.hint


def test_mkdir_in_words(tmp_path: Path) -> None:
    assert type(mkdir_error(OSError(errno.ENXIO, "x"), tmp_path)) is NoTee
    assert type(mkdir_error(OSError(errno.ENOENT, "x"), tmp_path)) is NoTee
    assert type(mkdir_error(OSError(errno.EACCES, "x"), tmp_path)) is PermissionMissing
    with pytest.raises(NoTee):
        TsmSource(tmp_path / "absent", Tee.SNP, QuoteLock(tmp_path / "lock")).quote(DATA, deadline=soon())


def soon() -> Deadline:
    return Deadline(60, "test")


def refused(path: Path) -> PlatformError:
    with pytest.raises(PlatformError) as caught, QuoteLock(path).take(soon()):
        pass
    assert caught.value.exit_status == 69
    return caught.value


def test_the_lock_is_made_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "run" / "quote.lock"
    with QuoteLock(path).take(soon()):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o022 == 0
        with pytest.raises(DeadlineExceeded, match="is locked"):
            QuoteLock(path).take(Deadline(0.05, "test"))
    with QuoteLock(path).take(soon()):
        pass


def test_the_lock_is_not_inherited(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with QuoteLock(path).take(soon()):
        held = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and fd.readlink() == path]
        assert held
        assert not any(os.get_inheritable(fd) for fd in held)


def test_lock_files_that_others_could_change(tmp_path: Path) -> None:
    path = tmp_path / "quote.lock"
    path.touch(0o600)
    path.chmod(0o620)
    assert refused(path).code == "platform.lock"
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    assert "could be changed by others" in refused(path).message
    tmp_path.chmod(0o700)
    path.unlink()
    path.symlink_to("elsewhere")
    assert "cannot be used as lock" in refused(path).message
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in refused(path).message
    path.unlink()
    path.mkdir()
    refused(path)
    (tmp_path / "link").symlink_to(tmp_path)
    assert "not a folder" in refused(tmp_path / "link" / "lock").message
    refused(tmp_path / "absent" / "absent" / "lock")


@pytest.mark.root
def test_lock_files_of_other_users(tmp_path: Path) -> None:
    path = tmp_path / "quote.lock"
    path.touch(0o600)
    os.chown(path, 65534, 65534)
    assert "could be changed by others" in refused(path).message
    path.unlink()
    os.chown(tmp_path, 65534, 65534)
    assert "could be changed by others" in refused(path).message


def test_no_descriptor_is_lost_by_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    close = os.close

    def counting_close(fd: int) -> Any:
        closed.append(fd)
        return close(fd)

    path = tmp_path / "lock"
    path.touch()
    path.chmod(0o666)
    monkeypatch.setattr(os, "close", counting_close)
    refused(path)
    assert len(closed) == 1
