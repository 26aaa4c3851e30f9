"""Heads of audit logs in the service's database: kept, bounded in number, and held against one another.

Heads are compared within one boot of one machine, as the hardware names it: whoever has another machine that a policy
knows can write any boot id into a statement, and must not denounce others by it. Two things can't be of one honest
log: one number with two heads, and a number that went back. For the second the order in which the statements were
made counts, as they say it, and the order in which they arrived: a clock that was set, or requests that crossed, break
one of them and not both.

What is kept stays, whoever sends how much: a machine that sends more than its share is refused, and what went before
is never displaced. Only a full store lets go of what is old.
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
"""At least. Older ones go when MAX_HEADS are there, and not before: a clock that jumps costs nothing."""
DAY, MAX_PER_DAY = timedelta(days=1), 512
"""Of one machine. One more is refused; the agent sends a newer one later, which covers all records before it."""
MAX_HEADS = 200_000
"""Of all machines. One more is refused while none is old."""
_RETRY_SECONDS = 3600.0
_INSERT = """
INSERT INTO heads (statement, boot_id, created, seq, head, received, client, machine, facts, alert)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_HEADS = """
SELECT statement, boot_id, created, seq, head, received, client, machine, facts, alert FROM heads
WHERE (?1 = '' OR boot_id = ?1) AND (?2 = '' OR machine = ?2) AND (?3 = 0 OR alert <> '')
ORDER BY received, created, seq
"""
_SHARED_BOOTS = """
SELECT boot_id FROM heads WHERE machine <> '' GROUP BY boot_id HAVING count(DISTINCT machine) > 1 ORDER BY boot_id
"""
_TWO_HEADS = """
SELECT statement, head FROM heads WHERE machine = ? AND boot_id = ? AND seq = ? AND head <> ? LIMIT 1
"""
_WENT_BACK = """
SELECT statement, seq FROM heads WHERE machine = ? AND boot_id = ? AND seq > ? AND created < ?
ORDER BY seq DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Head:
    """``statement`` is the digest (128 hex digits) of the key's statement, ``created`` its time, RFC 3339 as all times.

    ``seq`` is None and ``head`` "" where the agent could not write its log. ``machine`` is what the evidence names it
    by, "" in heads from before that was kept. ``facts`` say whose key it is and what its evidence was; ``alert`` what
    is wrong with it, "" for nothing.
    """

    statement: str
    boot_id: str
    created: str
    seq: int | None
    head: str
    received: str
    client: str
    machine: str
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
            "machine": self.machine,
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
            self._make_room(head.machine, now)
            kept = replace(head, alert=self._alert(head))
            values = (
                *(kept.statement, kept.boot_id, kept.created, kept.seq, kept.head, kept.received, kept.client),
                *(kept.machine, json.dumps(kept.facts), kept.alert),
            )
            self._db.execute(_INSERT, values)
            return kept

    def _make_room(self, machine: str, now: datetime) -> None:
        today = (machine, rfc3339(now - DAY), rfc3339(now))
        wanted = "SELECT count(*) FROM heads WHERE machine = ? AND received > ? AND received <= ?"
        if self._number(wanted, *today) >= MAX_PER_DAY:
            raise _full(f"{MAX_PER_DAY} audit heads of this machine came within a day")
        if self._number("SELECT count(*) FROM heads") >= MAX_HEADS:
            self._db.execute("DELETE FROM heads WHERE received < ?", (rfc3339(now - KEEP),))
            if self._number("SELECT count(*) FROM heads") >= MAX_HEADS:
                raise _full(f"{MAX_HEADS} audit heads are kept")

    def _number(self, wanted: str, *values: str) -> int:
        (number,) = self._db.execute(wanted, values).fetchone()
        return int(number)

    def _alert(self, head: Head) -> str:
        if head.seq is None:
            return ""
        here = (head.machine, head.boot_id, head.seq)
        if found := self._db.execute(_TWO_HEADS, (*here, head.head)).fetchone():
            return f"record {head.seq} has two heads in this boot: statement {found[0][:16]} names {found[1]}"
        if found := self._db.execute(_WENT_BACK, (*here, head.created)).fetchone():
            return f"the log went back in this boot: statement {found[0][:16]}, made before, names record {found[1]}"
        return ""

    def heads(self, *, boot_id: str = "", machine: str = "", alerts: bool = False) -> list[Head]:
        """Oldest first; of one boot, of one machine, or those with an alert, where asked."""
        rows = self._run(_HEADS, boot_id, machine, int(alerts))
        return [Head(*(*row[:8], json.loads(row[8]), row[9])) for row in rows]

    def shared_boots(self) -> list[str]:
        """Boots that more than one machine names, in order: all but one of them lie, or one was copied."""
        return [row[0] for row in self._run(_SHARED_BOOTS)]

    def count(self) -> tuple[int, int]:
        """How many heads, and how many of them with an alert."""
        ((total, alerts),) = self._run("SELECT count(*), coalesce(sum(alert <> ''), 0) FROM heads")
        return total, alerts


def _full(message: str) -> ServerError:
    return ServerError(message, retry_after=_RETRY_SECONDS, code="server.heads")
