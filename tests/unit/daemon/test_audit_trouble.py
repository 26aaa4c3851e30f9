"""The audit log that can't be written, or was found damaged: events wait, are counted, and nothing is lost silently."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.audit import START, record
from agent.core.canonical import MAX_INTEGER
from agent.core.errors import ServerError, VerificationError
from agent.daemon import audit, auditfile, files
from agent.daemon.audit import Audit
from tests.support.auditlogs import BOOT, CALLER, SMALL, opened, told, verify

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
BIG = 1 << 20


@pytest.fixture
def log(tmp_path: Path) -> Audit:
    return opened(tmp_path, BIG, now=lambda: NOON)


def test_a_folder_that_is_missing_is_trouble_until_it_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log = opened(folder, BIG)
    log.event("key.ended", severity="info", key="n/a")
    log.signed(CALLER, "aa")
    assert log.trouble is not None
    with pytest.raises(ServerError) as caught:
        log.require_writable()
    assert caught.value.code == "server.audit"
    assert "No such file" in caught.value.message
    summary = log.summary()
    assert (summary["seq"], summary["waiting"]) == (-1, 2)
    assert summary["trouble"]["code"] == "server.audit"
    folder.mkdir()
    log.require_writable()
    log.close()
    assert [kind for kind, _ in told(folder)] == ["log.file", "agent.started", "key.ended", "log.resumed", "key.signed"]


def test_events_beyond_what_waits_are_counted_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_PENDING", 3)
    folder = tmp_path / "log"
    log = opened(folder, BIG)
    for _ in range(5):
        log.event("key.ended", severity="info")
    folder.mkdir()
    log.close()
    records = told(folder)
    assert [fields for kind, fields in records if kind == "log.lost"] == [{"events": 3}]
    assert sum(kind == "key.ended" for kind, _ in records) == 2


def test_after_a_failed_fsync_the_file_is_looked_at_anew(
    tmp_path: Path, log: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        log.event("key.created", severity="notice", key="n/a")
        assert log.trouble is not None
    log.require_writable()
    log.close()
    assert [kind for kind, _ in told(tmp_path)][-2:] == ["key.created", "log.resumed"]


def test_little_room_on_the_disk_is_trouble(log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "RESERVE", 1 << 62)
    with pytest.raises(ServerError, match="bytes are free"):
        log.require_writable()
    log.close()


def test_a_link_in_the_log_s_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "audit.jsonl").symlink_to(victim)
    log = opened(folder, BIG)
    assert log.trouble is not None
    log.close()
    assert victim.read_bytes() == b"kept"


def test_files_are_nobody_else_s_to_read(tmp_path: Path, log: Audit) -> None:
    log.close()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {files.MODE}


def test_a_file_without_any_record_is_kept_aside(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_bytes(b"\0" * 5000)
    log = opened(tmp_path, BIG)
    log.close()
    assert [kind for kind, _ in told(tmp_path)] == ["log.file", "log.damaged", "agent.started"]
    assert (tmp_path / "audit-damaged-1.jsonl").read_bytes() == b"\0" * 5000
    assert log.summary()["last_hour"]["alert"] == 1


def test_damage_further_up_is_told_at_the_next_start_and_found_by_verify(tmp_path: Path, log: Audit) -> None:
    for number in range(3):
        log.event("key.created", severity="notice", key=f"n/{number}")
    log.close()
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"n/1", b"n/7"))
    again = opened(tmp_path, BIG)
    again.close()
    with pytest.raises(VerificationError, match=r"audit.jsonl', line 5: record 4 does not name the line before it"):
        verify(tmp_path)
    assert again.summary()["last_hour"]["alert"] == 1


def test_what_recovery_found_is_told_once_however_often_the_disk_fails(
    tmp_path: Path, log: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        log.event("key.created", severity="notice", key=f"n/{number}")
    log.close()
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"n/1", b"n/7"))
    recovered: list[int] = []

    def fail(fd: int) -> None:
        recovered.append(fd)
        raise OSError(5, "Input/output error")

    again = opened(tmp_path, BIG)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        for _ in range(20):
            again.event("key.ended", severity="info")
            again.flush()
        assert again.trouble is not None
    again.close()
    assert len(recovered) > 20
    assert path.read_bytes().count(b'"kind":"log.damaged"') == 1


def test_a_number_that_no_record_can_follow_is_trouble_and_no_crash(tmp_path: Path) -> None:
    """Whoever has the disk may write a last record with the largest number that there is."""
    line = record(
        START,
        {
            "seq": MAX_INTEGER,
            "time": "2026-11-22T12:00:00Z",
            "boot_id": BOOT,
            "kind": "key.ended",
            "severity": "info",
            "caller": None,
            "fields": {},
        },
    )
    (tmp_path / "audit.jsonl").write_bytes(line + b"\n")
    log = opened(tmp_path, BIG)
    log.event("key.ended", severity="info")
    assert log.trouble is not None
    assert "can't be written" in log.trouble.message
    with pytest.raises(ServerError):
        log.require_writable()
    log.close()


@pytest.mark.parametrize("what", ["fifo", "link", "large", "folder"])
def test_what_only_has_the_name_of_a_torn_end_is_told_and_not_read(tmp_path: Path, log: Audit, what: str) -> None:
    seq = log.summary()["seq"]
    log.close()
    path = tmp_path / f"audit-torn-{seq:016d}-1.bin"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    again = opened(tmp_path, BIG)
    again.close()
    assert again.trouble is None
    assert ("log.damaged", {"file": path.name}) in told(tmp_path)


def test_a_flood_of_torn_ends_is_told_in_part(tmp_path: Path, log: Audit) -> None:
    seq = log.summary()["seq"]
    log.close()
    for number in range(50):
        (tmp_path / f"audit-torn-{seq:016d}-{number}.bin").write_bytes(b"x")
    opened(tmp_path, BIG).close()
    assert [kind for kind, _ in told(tmp_path)].count("log.torn") == auditfile.MAX_TORN


def test_a_fifo_in_a_full_file_s_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "audit-0000000000000007.jsonl")
    log = opened(tmp_path, BIG)
    log.close()
    assert log.trouble is None
    (tmp_path / "audit-0000000000000007.jsonl").unlink()
    assert [kind for kind, _ in told(tmp_path)] == ["log.file", "log.damaged", "agent.started"]


def test_a_full_file_s_name_is_on_the_disk_before_the_next_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill keeps names that were not synced, so only the order shows that they would last."""
    log = opened(tmp_path, SMALL)
    seen: list[str] = []
    rename, fsync = os.rename, os.fsync

    def renamed(old: str, new: str) -> None:
        seen.append(f"{Path(old).name} is {Path(new).name}")
        rename(old, new)

    def synced(fd: int) -> None:
        seen.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink().name}")
        fsync(fd)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    while not any(" is " in step for step in seen):
        seen.clear()
        log.event("key.created", severity="notice", note="x" * 190)
    log.close()
    assert seen[:6] == [
        "fsync audit.jsonl",
        "fsync audit.jsonl.new",
        "audit.jsonl is audit-0000000000000000.jsonl",
        f"fsync {tmp_path.name}",
        "audit.jsonl.new is audit.jsonl",
        f"fsync {tmp_path.name}",
    ]


def test_what_an_fsync_failed_for_is_written_again(tmp_path: Path, log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops pages that it could not write, keeps showing them, and the next fsync succeeds without them."""
    path = tmp_path / "audit.jsonl"
    sure = path.stat().st_size
    real, pwrite, failing = os.fsync, os.pwrite, [True]
    again: dict[int, bytes] = {}

    def fsync(fd: int) -> None:
        if failing[0]:
            raise OSError(5, "Input/output error")
        real(fd)

    def written(fd: int, data: bytes, offset: int) -> int:
        again[offset] = data[:100]
        return pwrite(fd, data[:100], offset)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "pwrite", written)
    for _ in range(3):
        log.event("key.created", severity="notice", key="n/a")
        log.flush()
    failing[0] = False
    doubtful = path.read_bytes()[sure:]
    assert doubtful.count(b"\n") == 1
    again.clear()
    log.require_writable()
    assert sorted(again) == list(range(sure, sure + len(doubtful), 100))
    assert b"".join(again[place] for place in sorted(again)) == doubtful
    again.clear()
    log.event("key.created", severity="notice", key="n/b")
    log.close()
    assert again == {}
    assert [kind for kind, _ in told(tmp_path)][2:] == ["key.created"] * 3 + ["log.resumed", "key.created"]
