"""Reads what an audit log is held against from files: keys with their statements, and heads that a service holds.

Nothing here is verified: that a key's evidence binds its statement is `tee-agent verify`'s to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agent.core import bundle, canonical, eat, keydoc
from agent.core.audit import broken
from agent.core.auditpoints import Held, Point, of_heads, of_statement
from agent.core.canonical import shown
from agent.core.errors import UsageError
from agent.core.statement import Statement
from agent.verify import kinds
from agent.verify.files import read_file

MAX_HEADS = 256 << 20
"""Bytes of a service's list."""


def of_key(name: str) -> Point:
    """What the statement in a bundle, key document or EAT says. Raises UsageError, FormatError, VerificationError."""
    return of_statement(_statement(read_file(name, kinds.MAX_BYTES)), name)


def _statement(data: bytes) -> Statement:
    kind = kinds.kind_of(data)
    if kind == kinds.KEY:
        return keydoc.decode(data).statement
    if kind == kinds.BUNDLE:
        return bundle.decode(data).attachments.statement
    if kind == kinds.EAT:
        return keydoc.decode(eat.decode(data).document).statement
    raise UsageError(f"a {kind} has no statement", hint="give the key document of the key that signed it")


def of_service(name: str) -> tuple[Sequence[Point], int]:
    """What `tas audit heads --json` printed: points, and the number of heads that name no record. Raises UsageError,
    FormatError."""
    return of_heads(canonical.parse(read_file(name, MAX_HEADS), "list of audit heads", MAX_HEADS), name)


@dataclass(frozen=True, slots=True)
class Against:
    """What a log is held against. ``keys`` and ``heads`` are given in ``held``; ``unnamed`` heads name no record;
    ``service`` is the file of heads, "" for none."""

    held: Held
    keys: tuple[Point, ...]
    service: str
    unnamed: int

    @classmethod
    def read(cls, keys: Sequence[str], service: str | None) -> Against:
        """Reads the files. Raises UsageError, FormatError, VerificationError."""
        points = tuple(of_key(name) for name in keys)
        heads, unnamed = of_service(service) if service else ((), 0)
        return cls(Held([*points, *heads]), points, service or "", unnamed)

    def require_use(self) -> None:
        """A service's list must have something to say about this log. Raises VerificationError."""
        if self.service and all(point.required for point in [*self.held.found, *self.held.older]):
            raise broken(
                f"{shown(self.service)} has no head of a boot that this log knows: another machine's, or made anew"
            )

    def _heads(self) -> dict[str, int]:
        """Of the service's: how many are in the log, are older than it, and are of boots it does not know."""
        kinds_of = {"found": self.held.found, "older": self.held.older, "other_boots": self.held.others}
        counts = {name: sum(not point.required for point in found) for name, found in kinds_of.items()}
        return {**counts, "without_record": self.unnamed}

    def to_json(self) -> dict[str, Any]:
        """Members ``keys`` (of each ``file``, ``seq``, ``found``, ``told``) and ``tas_heads``, null where not given."""
        keys = [
            {
                "file": point.source,
                "seq": point.seq,
                "found": point in self.held.found,
                "told": self.held.told.get(point.statement),
            }
            for point in self.keys
        ]
        return {"keys": keys, "tas_heads": self._heads() if self.service else None}

    def lines(self) -> Iterator[str]:
        """The same in words."""
        for point in self.keys:
            told = self.held.told.get(point.statement)
            about = (
                f"record {told} tells of the key" if told is not None else "no record tells of it: a renewed statement"
            )
            where = "found" if point in self.held.found else "older than the log"
            yield f"key {shown(point.source)}: its statement names record {point.seq}: {where}; {about}"
        if self.service:
            counts = self._heads()
            yield f"service's heads: {counts['found']} found, {counts['older']} older than the log"

    def not_checked(self) -> list[str]:
        """What this leaves open."""
        left = [f"{shown(point.source)} itself, its evidence and signature: tee-agent verify" for point in self.keys]
        left += [
            f"record {point.seq}, that {shown(point.source)} names: older than the log"
            for point in self.keys
            if point not in self.held.found
        ]
        counts = self._heads()
        for name, what in (
            ("other_boots", "of boots that this log does not know"),
            ("without_record", "without a record"),
        ):
            if counts[name]:
                left.append(f"{counts[name]} of the service's heads, {what}")
        if self.service:
            left.append(f"{shown(self.service)} itself: take it from the service, not from this machine")
        return left
