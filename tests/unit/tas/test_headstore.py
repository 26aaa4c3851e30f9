"""Heads of audit logs: kept once, bounded, and held against each other within their boot."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.core.canonical import rfc3339
from agent.core.errors import ServerError
from tas import headstore
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
    seq: int | None, minute: int, *, name: str = "", boot: str = BOOT, statement: str = "", client: str = "a"
) -> Head:
    """Number ``seq`` in a statement of this minute; the head follows from the number unless it has a ``name``."""
    value = "" if seq is None else (name or f"{seq:02x}") * 32
    made = statement or f"{seq}/{minute}/{name}/{boot}/{client}".encode().hex()
    at = rfc3339(NOW + timedelta(minutes=minute))
    return Head(made, boot, at, seq, value, rfc3339(NOW), client, {"key_id": "k", "use": "bundle"})


def alerts(store: HeadStore, *found: Head) -> list[str]:
    kept = [store.keep(one, NOW) for one in found]
    return [one.alert for one in kept if one and one.alert]


def test_a_head_is_kept_once_and_comes_back_as_it_was(store: HeadStore) -> None:
    made = head(7, 0)
    assert store.keep(made, NOW) == made
    assert store.keep(made, NOW) is None
    assert store.heads() == [made]
    assert store.count() == (1, 0)
    assert store.heads(boot_id=OTHER) == []
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


def test_what_is_old_goes(store: HeadStore) -> None:
    old = replace(head(9, 0), received=rfc3339(NOW - KEEP - timedelta(seconds=1)))
    young = replace(head(10, 1), received=rfc3339(NOW - KEEP))
    store.keep(old, NOW - KEEP)
    store.keep(young, NOW - KEEP)
    store.keep(head(11, 2), NOW)
    assert [one.seq for one in store.heads()] == [10, 11]


def test_one_client_displaces_its_own_and_alerts_last(store: HeadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headstore, "MAX_PER_CLIENT", 3)
    for number, one in enumerate(
        [head(1, 0, client="b"), head(5, 0), head(5, 0, name="ff"), head(6, 1), head(7, 2), head(8, 3)]
    ):
        store.keep(replace(one, received=rfc3339(NOW + timedelta(seconds=number))), NOW)
    assert [(one.client, one.seq, bool(one.alert)) for one in store.heads()] == [
        ("b", 1, False),
        ("a", 5, True),
        ("a", 7, False),
        ("a", 8, False),
    ]


def test_all_together_are_bounded(store: HeadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headstore, "MAX_HEADS", 2)
    store.keep(head(1, 0, client="b"), NOW)
    store.keep(head(2, 1), NOW)
    with pytest.raises(ServerError) as caught:
        store.keep(head(3, 2), NOW)
    assert caught.value.code == "server.heads"
    assert store.keep(head(2, 1), NOW) is None
    store.keep(replace(head(4, 2), received=rfc3339(NOW + KEEP * 2)), NOW + KEEP * 2)
    assert store.count() == (1, 0)


def test_a_database_from_before_heads_is_taken_over(tmp_path: Path) -> None:
    first = Store(tmp_path / "tas.sqlite")
    first.create_secret("disk", 32)
    first.close()
    with sqlite3.connect(tmp_path / "tas.sqlite") as database:
        database.execute("DROP TABLE heads")
        database.execute("PRAGMA user_version = 1")
    database.close()
    store = HeadStore(tmp_path / "tas.sqlite")
    assert store.keep(head(1, 0), NOW)
    assert [item.key_id for item in store.secrets()] == ["disk"]
    store.close()
