"""Keys and audit log, each of which tells when the other was put back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from agent.core.statement import AuditHead
from agent.daemon import keyhistory
from agent.daemon.keyhistory import CHANGED, OPENED, History, newest_serial
from tests.support.auditlogs import WHO, opened


def tell(folder: Path, *serials: int, kind: str = CHANGED, more: int = 0) -> AuditHead:
    """A log that was told of these changes, and of ``more`` events since."""
    log = opened(folder)
    for serial in serials:
        log.event(kind, severity="info", key="uid-1/a", serial=serial)
    for number in range(more):
        log.event("key.created", severity="notice", caller=WHO, key=f"n/{number}", note="x" * 190)
    head = log.anchor()
    log.close()
    assert head
    return head


@pytest.mark.parametrize("window", [700, 5000, 1 << 20])
def test_the_newest_serial_is_found_in_whatever_file_it_is(
    tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyhistory, "_WINDOW", window)
    assert newest_serial_of(tmp_path, more=3) is None
    assert newest_serial_of(tmp_path, 1, 2) == 2
    assert newest_serial_of(tmp_path, more=60) == 2
    assert len(list(tmp_path.glob("audit-0*.jsonl"))) > 2
    assert newest_serial_of(tmp_path, 3, kind=OPENED, more=60) == 3


def newest_serial_of(folder: Path, *serials: int, kind: str = CHANGED, more: int = 0) -> int | None:
    tell(folder, *serials, kind=kind, more=more)
    return newest_serial(folder)


def test_lines_that_only_look_like_it_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(tmp_path, 7)
    log = opened(tmp_path)
    log.event("keys.strange", severity="alert", note='"kind":"keys.changed","serial":99')
    log.event("keys.changed", severity="info", serial="99")
    log.close()
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b'{"fields":{"serial":99},"kind":"keys.changed"}\n{"kind":"keys.changed"')
    assert newest_serial(tmp_path) == 7
    monkeypatch.setattr(keyhistory, "_TRIES", 2)
    assert newest_serial(tmp_path) is None


def test_keys_that_were_put_back_are_doubted(tmp_path: Path) -> None:
    head = tell(tmp_path, 1, 2, 3)
    history = History(tmp_path, lambda: head)
    assert history.doubts(3, head) == history.doubts(4, None) == []
    (doubt,) = history.doubts(2, head)
    assert "the audit log knows change 3, the folder of keys 2" in doubt


def test_a_log_that_was_put_back_is_doubted(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    tell(tmp_path / "log", 1)
    shutil.copytree(tmp_path / "log", tmp_path / "old")
    later = tell(tmp_path / "log", 2, more=9)
    now = tell(tmp_path / "old")
    (doubt,) = History(tmp_path / "old", lambda: now).doubts(2, later)
    assert f"it ends at record {now.seq}, and the keys know {later.seq}" in doubt


def test_without_a_log_nothing_is_doubted(tmp_path: Path) -> None:
    assert History(tmp_path, lambda: None).doubts(5, AuditHead(7, "ab" * 32)) == []


def test_each_place_of_a_record_in_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(tmp_path, 1, 2)
    size = (tmp_path / "audit.jsonl").stat().st_size
    for window in range(1, size + 2, 7):
        monkeypatch.setattr(keyhistory, "_WINDOW", window)
        assert newest_serial(tmp_path) == 2


def test_a_log_whose_files_are_gone_is_doubted_by_its_end(tmp_path: Path) -> None:
    (doubt,) = History(tmp_path, lambda: AuditHead(0, "cd" * 32)).doubts(5, AuditHead(7, "ab" * 32))
    assert "it ends at record 0, and the keys know 7" in doubt


def test_a_fifo_in_a_log_s_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "audit.jsonl")
    assert newest_serial(tmp_path) is None
