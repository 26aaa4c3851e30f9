"""Policies and secrets in one SQLite file (WAL), shared by the server and the admin's commands.

Both are on disk before an admin's command returns. Secrets are not encrypted in the file (docs/tas.md says so): its
modes protect them. What else the server keeps stands in tas.headstore; live nonces are in no file (tas.nonces).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.core.errors import ConfigError, Conflict, ServerError, UsageError
from agent.core.model import Secret

SECRET_BYTES = range(32, 1025)
BUSY_SECONDS = 5.0

_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_SCHEMAS = (
    """
CREATE TABLE nonces (nonce TEXT PRIMARY KEY, expires REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX nonces_by_expiry ON nonces (expires);
CREATE TABLE policies (policy_id TEXT PRIMARY KEY, document TEXT NOT NULL, stored TEXT NOT NULL) STRICT;
CREATE TABLE secrets (key_id TEXT PRIMARY KEY, value BLOB NOT NULL, created TEXT NOT NULL) STRICT;
CREATE TABLE serving (one INTEGER PRIMARY KEY CHECK (one = 1), facts TEXT NOT NULL) STRICT;
""",
    """
CREATE TABLE heads (
    statement TEXT PRIMARY KEY, boot_id TEXT NOT NULL, created TEXT NOT NULL, seq INTEGER, head TEXT NOT NULL,
    received TEXT NOT NULL, client TEXT NOT NULL, alert TEXT NOT NULL, facts TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX heads_by_boot ON heads (boot_id, seq);
CREATE INDEX heads_by_client ON heads (client, received);
""",
    """
DROP TABLE nonces;
DROP INDEX heads_by_boot;
DROP INDEX heads_by_client;
ALTER TABLE heads ADD COLUMN machine TEXT NOT NULL DEFAULT '';
CREATE INDEX heads_by_boot ON heads (machine, boot_id, seq);
CREATE INDEX heads_by_time ON heads (machine, received);
""",
)
"""Each takes the database from the version that its place in the list is, to the next."""


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """``document`` is the policy's JSON text as put, ``stored`` RFC 3339."""

    policy_id: str
    document: str
    stored: str


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """About a secret, never the secret. ``size`` in bytes, ``created`` RFC 3339."""

    key_id: str
    size: int
    created: str


def valid_id(text: str) -> bool:
    """Whether ``text`` may name a policy or a secret: ``[A-Za-z0-9_.-]{1,128}`` (TAS-PROTOCOL, section 3)."""
    return bool(_ID.fullmatch(text))


class Store:
    """One connection, for any thread. Raises ServerError while the file is busy, ConfigError if it is broken."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        with mapped(path.name):
            _make(path)
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA secure_delete = ON")
        self._migrate()

    def close(self) -> None:
        self._db.close()

    def _migrate(self) -> None:
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            for schema in _SCHEMAS[version:]:
                for statement in filter(str.strip, schema.split(";")):
                    self._db.execute(statement)
            if version < len(_SCHEMAS):
                self._db.execute(f"PRAGMA user_version = {len(_SCHEMAS)}")
        if version > len(_SCHEMAS):
            raise ConfigError(f"the database has schema {version}; this version of tas knows {len(_SCHEMAS)}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A full disk ends a transaction by itself, a COMMIT that failed does not: neither may stop the next one.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _run(self, statement: str, *values: object) -> list[Any]:
        # fetchall also ends the statement: a DELETE ... RETURNING is committed only then.
        with self._lock, mapped("the database"):
            return self._db.execute(statement, values).fetchall()

    # Policies

    def put_policy(self, policy_id: str, document: str, *, replace: bool = False) -> None:
        """Raises Conflict if the policy exists and ``replace`` is False."""
        verb = "INSERT OR REPLACE" if replace else "INSERT OR IGNORE"
        rows = self._run(f"{verb} INTO policies VALUES (?, ?, ?) RETURNING 1", policy_id, document, _now())
        if not rows:
            raise Conflict(f"policy {policy_id!r} exists already", hint="--replace puts this one in its place")

    def policy(self, policy_id: str) -> StoredPolicy | None:
        rows = self._run("SELECT policy_id, document, stored FROM policies WHERE policy_id = ?", policy_id)
        return StoredPolicy(*rows[0]) if rows else None

    def policies(self) -> list[StoredPolicy]:
        rows = self._run("SELECT policy_id, document, stored FROM policies ORDER BY policy_id")
        return [StoredPolicy(*row) for row in rows]

    def delete_policy(self, policy_id: str) -> bool:
        """Whether there was one."""
        return bool(self._run("DELETE FROM policies WHERE policy_id = ? RETURNING 1", policy_id))

    # Secrets

    def create_secret(self, key_id: str, size: int) -> None:
        """Make ``size`` random bytes; none is ever replaced. Raises UsageError (id, size), Conflict (it exists)."""
        if not valid_id(key_id):
            raise UsageError(f"{key_id!r} can't name a secret", hint="use 1 to 128 of A-Z a-z 0-9 _ . -")
        if size not in SECRET_BYTES:
            raise UsageError(f"a secret has {SECRET_BYTES.start} to {SECRET_BYTES.stop - 1} bytes, not {size}")
        value = secrets.token_bytes(size)
        if not self._run("INSERT OR IGNORE INTO secrets VALUES (?, ?, ?) RETURNING 1", key_id, value, _now()):
            raise Conflict(f"secret {key_id!r} exists already", hint="take another id: a secret is never overwritten")

    def secret(self, key_id: str) -> Secret | None:
        rows = self._run("SELECT value FROM secrets WHERE key_id = ?", key_id)
        return Secret(rows[0][0]) if rows else None

    def secrets(self) -> list[SecretInfo]:
        rows = self._run("SELECT key_id, length(value), created FROM secrets ORDER BY key_id")
        return [SecretInfo(*row) for row in rows]

    def delete_secret(self, key_id: str) -> bool:
        """Whether there was one. Its bytes leave the files too, the write-ahead log included."""
        deleted = bool(self._run("DELETE FROM secrets WHERE key_id = ? RETURNING 1", key_id))
        self._run("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

    # What the server says about itself, for `tas check`

    def set_serving(self, facts: dict[str, Any]) -> None:
        self._run("INSERT OR REPLACE INTO serving VALUES (1, ?)", json.dumps(facts))

    def serving(self) -> dict[str, Any] | None:
        """What the server last started with, None if none ever did."""
        rows = self._run("SELECT facts FROM serving")
        facts: dict[str, Any] | None = json.loads(rows[0][0]) if rows else None
        return facts


def _make(path: Path) -> None:
    # By us and not by SQLite, so that its files (-wal and -shm copy the mode) are never open to others. An existing
    # file is not opened: closing it would drop the locks that SQLite holds on it in this process.
    if path.is_symlink():
        raise ConfigError(f"{path} is a symbolic link", code="config.database")
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


@contextmanager
def mapped(what: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as exc:
        raise ServerError(f"{what}: {exc}", retry_after=1.0, code="server.database") from exc
    except sqlite3.DatabaseError as exc:
        raise ConfigError(f"{what}: {exc}", hint="restore tas.sqlite from a backup", code="config.database") from exc
    except OSError as exc:
        raise ConfigError(f"{what}: {exc.strerror}", code="config.database") from exc


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
