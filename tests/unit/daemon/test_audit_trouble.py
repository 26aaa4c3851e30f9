"""The audit log that can't be written, or was found damaged: events wait, are counted, and nothing is lost silently."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.errors import ServerError, VerificationError
from agent.daemon import audit, auditdisk
from agent.daemon.audit import Audit
from tests.support.auditlogs import CALLER, opened, told, verify

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
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {auditdisk.MODE}


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
