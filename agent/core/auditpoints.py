"""Where an audit log stood, as keys' statements and the attestation service say it: held against the log itself.

A statement names number and digest of a record, and evidence binds the statement: so a log that holds that record,
in a chain, is up to there the one that the machine had when the key was made (docs/audit.md).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agent.core.audit import Record, broken
from agent.core.canonical import MAX_INTEGER, shown
from agent.core.errors import FormatError, VerificationError
from agent.core.statement import BOOT_ID, Statement

_STATEMENT = re.compile(r"[0-9a-f]{128}", re.ASCII)
NEW_KEYS = frozenset({"key.attested", "key.created", "key.rotated"})
"""Kinds of records that name the statement of a key that is new."""


@dataclass(frozen=True, slots=True)
class Point:
    """``digest`` (32 bytes) of record ``seq``, written in boot ``boot_id``; ``source`` says so, a file's name.

    ``statement`` is the digest (hex) of the statement. ``required``: the log must have the record, or begin after it;
    others need only fit where the log knows their boot: they may be another machine's.
    """

    seq: int
    digest: bytes
    boot_id: str
    source: str
    statement: str
    required: bool = True


class Held:
    """Points held against one log. Afterwards ``found`` are those in it, ``older`` those before its first record,
    ``others`` those of boots that it does not know; ``told`` has the number of the record about a new key by the
    digest of its statement."""

    def __init__(self, points: Iterable[Point]) -> None:
        self._waiting = deque(sorted(points, key=lambda point: point.seq))
        self._statements = {point.statement for point in self._waiting}
        self._boots: set[str] = set()
        self.found: list[Point] = []
        self.older: list[Point] = []
        self.others: list[Point] = []
        self.told: dict[str, int] = {}

    def take(self, record: Record, line_digest: bytes) -> None:
        """The next record. Raises VerificationError."""
        self._boots.add(record.boot_id)
        while self._waiting and self._waiting[0].seq <= record.seq:
            point = self._waiting.popleft()
            if point.seq < record.seq:  # the first record's number: from there on none is left out
                self.older.append(point)
            elif point.boot_id == record.boot_id and point.digest == line_digest:
                self.found.append(point)
            elif point.required or point.boot_id == record.boot_id:
                raise broken(f"record {point.seq} is not the one that {_named(point)} names: this log was made anew")
            else:
                self.others.append(point)
        statement = record.fields.get("statement")
        if record.kind in NEW_KEYS and isinstance(statement, str) and statement in self._statements:
            self.told.setdefault(statement, record.seq)

    def end(self, last: int) -> None:
        """All is read. Raises VerificationError."""
        for point in self._waiting:
            if point.required or point.boot_id in self._boots:
                raise broken(
                    f"the log ends with record {last}: {_named(point)} names record {point.seq}, cut off since"
                )
        for point in self.others:
            if point.boot_id in self._boots:
                raise broken(f"record {point.seq} is of another boot than {_named(point)} says: this log was made anew")
        self.others += self._waiting


def _named(point: Point) -> str:
    return f"{shown(point.source)} (statement {point.statement[:16]})"


def of_statement(statement: Statement, source: str) -> Point:
    """What a statement says. Raises VerificationError where it names no record."""
    if statement.audit is None:
        message = f"{shown(source)}: its statement names no record: the log could not be written when the key was made"
        raise VerificationError(message, code="verify.audit")
    head = statement.audit
    return Point(head.seq, bytes.fromhex(head.head), statement.boot_id, source, statement.digest().hex())


def of_heads(document: Any, source: str) -> tuple[Sequence[Point], int]:
    """What `tas audit heads --json` printed: its points, and how many heads name no record. Raises FormatError."""
    heads = document.get("heads") if isinstance(document, dict) else None
    if not isinstance(heads, list) or not all(isinstance(head, dict) for head in heads):
        raise FormatError(f"{shown(source)}: not what `tas audit heads --json` prints", record="audit heads")
    named = [head for head in heads if head.get("seq") is not None]
    return [_of_head(head, source) for head in named], len(heads) - len(named)


def _of_head(head: dict[str, Any], source: str) -> Point:
    seq, boot_id, statement = head.get("seq"), head.get("boot_id"), head.get("statement")
    try:
        digest = bytes.fromhex(head["head"])
    except (KeyError, TypeError, ValueError):
        digest = b""
    sound = isinstance(seq, int) and not isinstance(seq, bool) and 0 <= seq <= MAX_INTEGER and len(digest) == 32
    if not sound or not _is(BOOT_ID, boot_id) or not _is(_STATEMENT, statement):
        raise FormatError(f"{shown(source)}: a head without seq, head, boot_id or statement", record="audit heads")
    return Point(int(str(seq)), digest, str(boot_id), source, str(statement), required=False)


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))
