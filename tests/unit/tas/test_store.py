"""Policies and secrets: secrets are never replaced; files are the owner's alone."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import ConfigError, Conflict, ServerError, UsageError
from tas import store as stores
from tas.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "tas.sqlite")
    yield made
    made.close()


def test_policies(store: Store) -> None:
    store.put_policy("web", "one")
    with pytest.raises(Conflict):
        store.put_policy("web", "two")
    first = store.policy("web")
    store.put_policy("web", "two", replace=True)
    second = store.policy("web")
    assert first
    assert second
    assert (first.document, second.document) == ("one", "two")
    assert store.delete_policy("web")
    assert not store.delete_policy("web")
    assert store.policy("web") is None


def test_secret_is_random_and_never_overwritten(store: Store) -> None:
    store.create_secret("a", 32)
    store.create_secret("b", 64)
    first, second = store.secret("a"), store.secret("b")
    assert first
    assert second
    assert (len(first), len(second)) == (32, 64)
    assert bytes(first.reveal()) != bytes(second.reveal())[:32]
    with pytest.raises(Conflict):
        store.create_secret("a", 32)
    again = store.secret("a")
    assert again
    assert again.reveal() == first.reveal()


@pytest.mark.parametrize("size", [-1, 0, 16, 31, 1025])
def test_secret_sizes(store: Store, size: int) -> None:
    with pytest.raises(UsageError):
        store.create_secret("a", size)
    assert store.secrets() == []


@pytest.mark.parametrize("key_id", ["", "a b", "policy:x", "../x", "a" * 129, "ä", "a\n"])
def test_secret_names(store: Store, key_id: str) -> None:
    with pytest.raises(UsageError):
        store.create_secret(key_id, 32)


def test_deleted_secret_leaves_the_file(store: Store, tmp_path: Path) -> None:
    store.create_secret("a", 64)
    found = store.secret("a")
    assert found
    value = bytes(found.reveal())
    beside = Store(tmp_path / "tas.sqlite")
    assert beside.delete_secret("a")
    assert not beside.delete_secret("a")
    beside.close()
    assert (tmp_path / "tas.sqlite-wal").exists()
    assert not any(value in path.read_bytes() for path in tmp_path.iterdir())


def test_files_are_the_owners_alone(store: Store, tmp_path: Path) -> None:
    store.create_secret("a", 32)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes) == {"tas.sqlite", "tas.sqlite-wal", "tas.sqlite-shm"}
    assert set(modes.values()) == {0o600}


def test_opened_again(store: Store, tmp_path: Path) -> None:
    store.create_secret("a", 32)
    store.set_serving({"pid": 1})
    store.close()
    again = Store(tmp_path / "tas.sqlite")
    assert [info.key_id for info in again.secrets()] == ["a"]
    assert again.serving() == {"pid": 1}
    again.close()


def test_never_served(store: Store) -> None:
    assert store.serving() is None


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tas.sqlite"
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(ConfigError, match="schema 99"):
        Store(path)


def test_broken_file_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "tas.sqlite"
    path.write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(ConfigError) as caught:
        Store(path)
    assert caught.value.code == "config.database"


def test_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "tas.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        Store(tmp_path / "tas.sqlite")
    assert not (tmp_path / "elsewhere").exists()


def test_busy_file_is_a_temporary_error(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "BUSY_SECONDS", 0.0)
    other = sqlite3.connect(tmp_path / "tas.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ServerError) as caught:
        Store(tmp_path / "tas.sqlite")
    assert caught.value.retry
    other.close()
