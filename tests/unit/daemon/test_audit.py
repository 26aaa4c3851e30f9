"""The signer's audit log: what it tells, what it counts, what a flood costs, what a log that can't be written means."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core.access import Decision, Wish
from agent.core.errors import FormatError, TransportError
from agent.daemon import audit, auditcount
from agent.daemon.audit import Audit
from agent.daemon.auditcount import BURST, MAX_ROWS
from agent.daemon.auditdraft import identity
from agent.daemon.peers import Caller
from tests.support.auditlogs import CALLER, WHO, opened, told, verify

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
DENIED = Decision(allowed=False, rule="default", reason="no rule allows it", namespace="uid-1000")
BIG = 1 << 20


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """However long a test takes, no source may tell more one by one."""
    monkeypatch.setattr(auditcount, "REFILL_SECONDS", 1e9)
    return opened(tmp_path, BIG, now=lambda: NOON)


def other(uid: int, unit: str = "app.service") -> Caller:
    return Caller(1, uid, uid, (), unit, "")


def recorded(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """The calls of these functions of os, from now on, in their order."""
    steps: list[str] = []

    def recording(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any) -> Any:
            steps.append(name)
            return real(*args)

        return step

    for name in names:
        monkeypatch.setattr(os, name, recording(name, getattr(os, name)))
    return steps


def test_logs_of_one_second_differ(tmp_path: Path) -> None:
    """Else one that was made anew in the second of the first would have its head."""
    now = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
    heads = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        log = opened(tmp_path / name, 1 << 20, now=lambda: now)
        heads.add((log.summary()["seq"], log.head()))
        log.close()
    assert [seq for seq, _ in heads] == [1, 1]


def test_a_key_event_is_told_with_its_caller(tmp_path: Path, log: Audit) -> None:
    before = log.head()
    log.event("key.created", severity="notice", caller=WHO, key="n/a", generation=1)
    assert log.head() != before
    record = verify(tmp_path, log.head()).head.last
    assert (record.kind, record.severity, record.caller) == ("key.created", "notice", WHO)
    assert (record.fields, record.time) == ({"key": "n/a", "generation": 1}, NOON)
    log.close()


def test_what_is_told_is_on_the_disk_first(tmp_path: Path, log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: sizes.append(os.fstat(fd).st_size))
    log.event("key.created", severity="notice")
    assert sizes == [(tmp_path / "audit.jsonl").stat().st_size]
    log.close()


def test_what_a_statement_names_is_on_the_disk_with_all_before_it(
    tmp_path: Path, log: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Denials that nobody waited for and counts included."""
    steps = recorded(monkeypatch, "write", "fsync")
    log.denied(CALLER, Wish("sign"), DENIED)
    log.signed(CALLER, "ab" * 32)
    head = log.anchor()
    assert steps[-1] == "fsync"
    assert head
    assert head.seq == log.summary()["seq"]
    assert [kind for kind, _ in told(tmp_path, bytes.fromhex(head.head))][-2:] == ["denied", "key.signed"]
    steps.clear()
    assert log.anchor() == head
    assert not steps
    log.event("key.created", severity="notice")
    later = log.anchor()
    assert later
    assert later.seq == head.seq + 1


def test_a_log_that_cannot_be_written_has_no_head_for_a_statement(tmp_path: Path) -> None:
    log = opened(tmp_path / "missing")
    assert log.anchor() is None
    (tmp_path / "missing").mkdir()
    assert log.anchor() is not None


def test_foreign_text_is_cut_and_escaped(tmp_path: Path, log: Audit) -> None:
    hostile = other(1000, "\x1b[2J\ud800" + "\u00e9" * 500)
    log.event("key.created", severity="notice", caller=identity(hostile), key="\u202e" * 900, big=1 << 70)
    log.denied(hostile, Wish("sign", key="n/\n", context="\x00" * 256), DENIED)
    log.close()
    records = told(tmp_path)
    assert records[-2][1]["key"].startswith("\\u202e")
    assert records[-2][1]["big"] == str(1 << 70)
    assert records[-1][1]["key"] == "n/\\n"


def test_signatures_are_counted_by_caller_key_and_second(tmp_path: Path) -> None:
    now = [NOON]
    log = opened(tmp_path, BIG, now=lambda: now[0])
    for _ in range(1000):
        log.signed(CALLER, "aa")
    log.signed(CALLER, "bb")
    log.signed(other(7), "aa")
    now[0] += timedelta(seconds=1)
    log.signed(CALLER, "aa")
    log.close()
    counted = [tuple(fields.values()) for kind, fields in told(tmp_path) if kind == "key.signed"]
    noon, later = "2026-11-22T12:00:00Z", "2026-11-22T12:00:01Z"
    assert sorted(counted) == [(1, "aa", noon), (1, "aa", later), (1, "bb", noon), (1000, "aa", noon)]


def test_a_flood_of_denials_is_counted(tmp_path: Path, log: Audit) -> None:
    for number in range(10_000):
        log.denied(CALLER, Wish("sign", key=f"n/{number}"), DENIED)
    log.denied(other(7), Wish("status"), DENIED)
    log.close()
    records = told(tmp_path)
    single = [fields for kind, fields in records if kind == "denied"]
    assert len(single) == BURST + 1
    assert single[-1] == {"operation": "status", "rule": "default", "reason": "no rule allows it"}
    assert [fields for kind, fields in records if kind == "denied.more"] == [{"count": 10_000 - BURST}]
    assert (tmp_path / "audit.jsonl").stat().st_size < 10_000


def test_a_denial_says_what_was_wished(tmp_path: Path, log: Audit) -> None:
    log.denied(CALLER, Wish("keys.create", key="a", use="raw", persistent=True), DENIED)
    log.close()
    fields = told(tmp_path)[-1][1]
    assert fields.pop("reason")
    assert fields == {"operation": "keys.create", "rule": "default", "key": "a", "use": "raw", "persistent": True}


def test_many_callers_find_no_more_room_than_there_is(tmp_path: Path, log: Audit) -> None:
    for uid in range(3 * MAX_ROWS):
        for _ in range(2):
            log.signed(other(uid), "aa")
        log.denied(other(uid), Wish("status"), DENIED)
    log.close()
    records = told(tmp_path)
    assert sum(kind == "denied" for kind, _ in records) == MAX_ROWS
    assert sum(kind == "key.signed" for kind, _ in records) == MAX_ROWS
    others = [fields for kind, fields in records if kind == "key.signed.others"]
    assert others == [{"count": 4 * MAX_ROWS}]
    assert sum(fields["count"] for kind, fields in records if kind == "denied.more") == 2 * MAX_ROWS


def test_a_denial_does_not_wait_for_the_disk(tmp_path: Path, log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    log.denied(CALLER, Wish("status"), DENIED)
    assert synced == []
    assert told(tmp_path)[-1][0] == "denied"
    log.flush()
    assert len(synced) == 1
    log.close()


def test_failures_of_our_own_are_told(tmp_path: Path, log: Audit) -> None:
    for _ in range(100):
        log.failed("no evidence for the key", TransportError("nobody answers"))
    log.close()
    records = told(tmp_path)
    assert sum(kind == "failed" for kind, _ in records) == BURST
    assert records[-1] == ("failed.more", {"what": "no evidence for the key", "count": 100 - BURST})
    assert log.summary()["last_hour"]["warning"] == BURST + 1


def test_a_kind_that_no_record_can_have_is_refused_and_does_not_stay(tmp_path: Path, log: Audit) -> None:
    with pytest.raises(FormatError):
        log.event("Not A Kind", severity="notice")
    log.event("key.ended", severity="info")
    log.close()
    assert told(tmp_path)[-1][0] == "key.ended"


def test_run_writes_counts_by_itself(tmp_path: Path, log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "TICK_SECONDS", 0.01)

    written = asyncio.Event()
    flush = log.flush

    def flushed() -> None:
        flush()
        loop.call_soon_threadsafe(written.set)

    async def main() -> None:
        task = asyncio.create_task(log.run())
        for key in ("aa", "bb"):
            log.signed(CALLER, key)
            await written.wait()
            written.clear()
            assert told(tmp_path)[-1][1]["key_id"] == key
        task.cancel()

    with asyncio.Runner() as runner, monkeypatch.context() as patch:
        loop = runner.get_loop()
        patch.setattr(log, "flush", flushed)
        runner.run(main())
    log.close()
