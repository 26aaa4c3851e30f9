"""Heads of audit logs in the service's database: kept, bounded in number and age, and held against one another.

Two things can't be of one honest log: one number with two heads in one boot, and a number that went back. For the
second the order in which the statements were made counts, as they say it, and the order in which they arrived: a
clock that was set, or two requests that crossed, break one of them and not both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from agent.core.canonical import rfc3339
from agent.core.errors import ServerError
from tas.store import Store, mapped

KEEP = timedelta(days=90)
MAX_PER_CLIENT = 4096
"""Of one address (IPv6: one /64). One more displaces the client's oldest without an alert."""
MAX_HEADS = 200_000
"""Of all clients. One more is refused until older ones have gone."""
_RETRY_SECONDS = 3600.0
_INSERT = """
INSERT INTO heads (statement, boot_id, created, seq, head, received, client, alert, facts)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_DISPLACE = """
DELETE FROM heads WHERE statement IN
    (SELECT statement FROM heads WHERE client = ? ORDER BY alert <> '', received LIMIT ?)
"""


@dataclass(frozen=True, slots=True)
class Head:
    """``statement`` is the digest (128 hex digits) of the key's statement, ``created`` its time, RFC 3339 as all times.

    ``seq`` is None and ``head`` "" where the agent could not write its log. ``facts`` say whose key it is and what its
    evidence was; ``alert`` what is wrong with it, "" for nothing.
    """

    statement: str
    boot_id: str
    created: str
    seq: int | None
    head: str
    received: str
    client: str
    facts: Mapping[str, Any]
    alert: str = ""

    def to_json(self) -> dict[str, Any]:
        """One flat document, as `tas audit heads --json` has it."""
        return {
            "boot_id": self.boot_id,
            "seq": self.seq,
            "head": self.head,
            "created": self.created,
            "received": self.received,
            "client": self.client,
            "statement": self.statement,
            **self.facts,
            "alert": self.alert,
        }


class HeadStore(Store):
    """The database, for those who keep heads."""

    def keep(self, head: Head, now: datetime) -> Head | None:
        """Store it, with an alert where it contradicts what is there; what was stored, None if it was known.

        Raises ServerError (``server.heads``) when there is no room.
        """
        with self._lock, mapped("the database"), self._transaction():
            if self._db.execute("SELECT 1 FROM heads WHERE statement = ?", (head.statement,)).fetchone():
                return None
            self._make_room(head.client, now)
            kept = replace(head, alert=self._alert(head))
            values = (
                *(kept.statement, kept.boot_id, kept.created, kept.seq, kept.head, kept.received, kept.client),
                *(kept.alert, json.dumps(kept.facts)),
            )
            self._db.execute(_INSERT, values)
            return kept

    def _make_room(self, client: str, now: datetime) -> None:
        self._db.execute("DELETE FROM heads WHERE received < ?", (rfc3339(now - KEEP),))
        (count,) = self._db.execute("SELECT count(*) FROM heads WHERE client = ?", (client,)).fetchone()
        if count >= MAX_PER_CLIENT:
            self._db.execute(_DISPLACE, (client, count - MAX_PER_CLIENT + 1))
        (total,) = self._db.execute("SELECT count(*) FROM heads").fetchone()
        if total >= MAX_HEADS:
            raise ServerError(f"{MAX_HEADS} audit heads are kept", retry_after=_RETRY_SECONDS, code="server.heads")

    def _alert(self, head: Head) -> str:
        if head.seq is None:
            return ""
        two = "SELECT statement, head FROM heads WHERE boot_id = ? AND seq = ? AND head <> ? LIMIT 1"
        if found := self._db.execute(two, (head.boot_id, head.seq, head.head)).fetchone():
            return f"record {head.seq} has two heads in this boot: statement {found[0][:16]} names {found[1]}"
        back = (
            "SELECT statement, seq FROM heads WHERE boot_id = ? AND seq > ? AND created < ? ORDER BY seq DESC LIMIT 1"
        )
        if found := self._db.execute(back, (head.boot_id, head.seq, head.created)).fetchone():
            return f"the log went back in this boot: statement {found[0][:16]}, made before, names record {found[1]}"
        return ""

    def heads(self, *, boot_id: str = "", alerts: bool = False) -> list[Head]:
        """Oldest first; of one boot, or those with an alert, where asked."""
        wanted = "SELECT statement, boot_id, created, seq, head, received, client, facts, alert FROM heads"
        wanted += " WHERE (? = '' OR boot_id = ?) AND (? = 0 OR alert <> '') ORDER BY received, created, seq"
        rows = self._run(wanted, boot_id, boot_id, int(alerts))
        return [
            Head(**dict(zip(Head.__dataclass_fields__, (*row[:7], json.loads(row[7]), row[8]), strict=True)))
            for row in rows
        ]

    def count(self) -> tuple[int, int]:
        """How many heads, and how many of them with an alert."""
        ((total, alerts),) = self._run("SELECT count(*), coalesce(sum(alert <> ''), 0) FROM heads")
        return total, alerts
