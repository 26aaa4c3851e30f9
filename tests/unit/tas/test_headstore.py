"""Heads of audit logs: kept once, bounded, and held against each other within one boot of one machine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.core.canonical import rfc3339
from agent.core.errors import ServerError, TeeAgentError
from tas import cli, headstore
from tas import state as states
from tas.headstore import KEEP, Head, HeadStore
from tas.store import Store

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
BOOT, OTHER = "6a1c1f0e-5b1d-4f57-9f5a-0e6d2f0c9b11", "7a1c1f0e-5b1d-4f57-9f5a-0e6d2f0c9b11"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HeadStore]:
    made = HeadStore(tmp_path / "tas.sqlite")
    yield made
    made.close()


def head(
    seq: int | None, minute: int, *, name: str = "", boot: str = BOOT, machine: str = "m", client: str = "a"
) -> Head:
    """Number ``seq`` in a statement of this minute; the head follows from the number unless it has a ``name``."""
    value = "" if seq is None else (name or f"{seq:02x}") * 32
    made = f"{seq}/{minute}/{name}/{boot}/{machine}/{client}".encode().hex()
    at = rfc3339(NOW + timedelta(minutes=minute))
    return Head(made, boot, at, seq, value, rfc3339(NOW), client, machine, {"key_id": "k", "use": "bundle"})


def alerts(store: HeadStore, *found: Head) -> list[str]:
    kept = [store.keep(one, NOW) for one in found]
    return [one.alert for one in kept if one and one.alert]


def test_a_head_is_kept_once_and_comes_back_as_it_was(store: HeadStore) -> None:
    made = head(7, 0)
    assert store.keep(made, NOW) == made
    assert store.keep(made, NOW) is None
    assert store.heads() == [made]
    assert store.count() == (1, 0)
    assert store.heads(boot_id=OTHER) == store.heads(machine="another") == []
    assert store.heads(boot_id=BOOT, machine="m") == [made]
    assert made.to_json()["use"] == "bundle"


def test_a_log_that_grows_is_no_contradiction(store: HeadStore) -> None:
    assert alerts(store, head(3, 0), head(9, 1), head(9, 2), head(9, 3, client="b"), head(None, 4), head(12, 5)) == []


def test_two_heads_of_one_number_are_an_alert_whatever_the_order(store: HeadStore) -> None:
    (told,) = alerts(store, head(9, 5), head(9, 1, name="ff"))
    assert told.startswith("record 9 has two heads in this boot")
    assert [one.alert for one in store.heads(alerts=True)] == [told]
    assert store.count() == (2, 1)


def test_a_number_that_goes_back_is_an_alert(store: HeadStore) -> None:
    (told,) = alerts(store, head(9, 0), head(8, 1))
    assert told.startswith("the log went back in this boot")


def test_statements_that_crossed_and_a_clock_that_was_set_are_not(store: HeadStore) -> None:
    assert alerts(store, head(9, 5), head(7, 4), head(8, 5)) == []
    assert alerts(store, head(20, -60)) == []


def test_boots_are_not_compared(store: HeadStore) -> None:
    assert alerts(store, head(9, 0), head(9, 1, name="ff", boot=OTHER), head(12, 2, boot=OTHER), head(10, 3)) == []


def test_nobody_is_denounced_by_another_machine(store: HeadStore) -> None:
    """Whoever has a machine that a policy knows can name any boot: neither before nor after is that an alert."""
    assert alerts(store, head(9, 0, name="ff", machine="rogue"), head(9, 1), head(12, 2, machine="rogue")) == []
    assert alerts(store, head(10, 3)) == []
    assert store.shared_boots() == [BOOT]
    assert [one.seq for one in store.heads(machine="m")] == [9, 10]


def test_one_machine_under_several_addresses_is_one(store: HeadStore) -> None:
    assert alerts(store, head(9, 0), head(9, 1, name="ff", client="b"))
    assert store.shared_boots() == []


def later(one: Head, after: timedelta) -> Head:
    return replace(one, received=rfc3339(NOW + after))


def keep(store: HeadStore, one: Head, after: timedelta) -> Head | None:
    return store.keep(later(one, after), NOW + after)


def refused(store: HeadStore, one: Head, after: timedelta) -> str:
    with pytest.raises(ServerError) as caught:
        keep(store, one, after)
    assert caught.value.code == "server.heads"
    return caught.value.message


def test_a_flood_displaces_nothing_and_stops_nobody_else(store: HeadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sent an earlier head can't have it forgotten by sending many, from whatever address."""
    monkeypatch.setattr(headstore, "MAX_PER_DAY", 3)
    for number in range(3):
        keep(store, head(number, number), timedelta(hours=number))
    assert "of this machine" in refused(store, head(5, 5, client="b"), timedelta(hours=3))
    assert keep(store, head(5, 5, machine="other"), timedelta(hours=3))
    assert keep(store, head(0, 0), timedelta(hours=3)) is None
    assert keep(store, head(6, 6), timedelta(days=1))
    refused(store, head(7, 7), timedelta(days=1))
    assert [one.seq for one in store.heads(machine="m")] == [0, 1, 2, 6]


def test_a_clock_that_jumps_costs_no_head_and_stops_nobody(store: HeadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headstore, "MAX_PER_DAY", 2)
    keep(store, head(1, 0), timedelta())
    for number in (2, 3):
        keep(store, head(number, number), KEEP * 10)
    assert [one.seq for one in store.heads()] == [1, 2, 3]
    assert keep(store, head(4, 4), timedelta(minutes=1))


def test_a_full_store_lets_go_of_what_is_old_and_of_nothing_else(
    store: HeadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headstore, "MAX_HEADS", 2)
    keep(store, head(1, 0, client="b"), timedelta())
    keep(store, head(2, 1), timedelta(seconds=1))
    assert "are kept" in refused(store, head(3, 2), KEEP)
    assert keep(store, head(2, 1), KEEP) is None
    assert keep(store, head(4, 2), KEEP + timedelta(seconds=1))
    assert [one.seq for one in store.heads()] == [2, 4]


def test_a_full_disk_is_said_and_ends_with_the_disk_s_being_full(store: HeadStore) -> None:
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ServerError, match="full") as caught:
        store.keep(replace(head(1, 0), facts={"key_id": "k" * 100_000}), NOW)
    assert caught.value.code == "server.database"
    store._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert store.keep(head(1, 0), NOW)


def test_a_commit_that_fails_leaves_nothing_open(store: HeadStore) -> None:
    def no_commit(action: int, what: str | None, *_: object) -> int:
        return sqlite3.SQLITE_DENY if (action, what) == (sqlite3.SQLITE_TRANSACTION, "COMMIT") else sqlite3.SQLITE_OK

    store._db.set_authorizer(no_commit)
    with pytest.raises(TeeAgentError):
        store.keep(head(1, 0), NOW)
    store._db.set_authorizer(None)
    assert store.count() == (0, 0)
    assert store.keep(head(1, 0), NOW)


def test_an_admin_sees_which_boots_several_machines_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states.create(tmp_path / "tas")
    store = HeadStore(tmp_path / "tas" / "tas.sqlite")
    for one in (head(1, 0, machine="report-id:aa"), head(2, 1, machine="report-id:bb"), head(3, 2, boot=OTHER)):
        store.keep(one, NOW)
    store.close()
    words = ["audit", "heads", "--state", str(tmp_path / "tas")]
    assert cli.main(words) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert [BOOT in line for line in warnings] == [True]
    assert cli.main([*words, "--machine", "report-id:bb", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["machine"], one["seq"]) for one in found["heads"]] == [("report-id:bb", 2)]
    assert found["shared_boots"] == [BOOT]


OLD = """
CREATE TABLE nonces (nonce TEXT PRIMARY KEY, expires REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX nonces_by_expiry ON nonces (expires);
CREATE TABLE policies (policy_id TEXT PRIMARY KEY, document TEXT NOT NULL, stored TEXT NOT NULL) STRICT;
CREATE TABLE secrets (key_id TEXT PRIMARY KEY, value BLOB NOT NULL, created TEXT NOT NULL) STRICT;
CREATE TABLE serving (one INTEGER PRIMARY KEY CHECK (one = 1), facts TEXT NOT NULL) STRICT;
INSERT INTO secrets VALUES ('disk', zeroblob(32), '2026-11-22');
PRAGMA user_version = 1;
"""
HEADS = """
CREATE TABLE heads (
    statement TEXT PRIMARY KEY, boot_id TEXT NOT NULL, created TEXT NOT NULL, seq INTEGER, head TEXT NOT NULL,
    received TEXT NOT NULL, client TEXT NOT NULL, alert TEXT NOT NULL, facts TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX heads_by_boot ON heads (boot_id, seq);
CREATE INDEX heads_by_client ON heads (client, received);
INSERT INTO heads VALUES ('aa', 'b', 'c', 7, 'ff', 'r', '192.0.2.1', '', '{"key_id": "k"}');
PRAGMA user_version = 2;
"""


@pytest.mark.parametrize("script", [OLD, OLD + HEADS], ids=["1", "2"])
def test_databases_of_earlier_versions_are_taken_over(tmp_path: Path, script: str) -> None:
    with sqlite3.connect(tmp_path / "tas.sqlite") as database:
        database.executescript(script)
    database.close()
    store = HeadStore(tmp_path / "tas.sqlite")
    assert [(one.client, one.machine, one.facts["key_id"]) for one in store.heads()] == (
        [("192.0.2.1", "", "k")] if HEADS in script else []
    )
    assert store.keep(head(1, 0), NOW)
    assert [item.key_id for item in store.secrets()] == ["disk"]
    store.close()
    again = Store(tmp_path / "tas.sqlite")
    assert again.secret("disk")
    again.close()
