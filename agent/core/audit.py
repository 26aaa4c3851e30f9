"""The audit log's chain: one canonical JSON object a line, each naming the SHA-256 of the line before (docs/audit.md).

``digest(line) = SHA-256("tee-agent/audit/v1" || 0 || line)``, the line without its newline; what the first line of
all names is the digest of nothing. A changed, missing or moved line breaks the chain behind it. Lines cut off at the
end, or a last line that was changed, show only against a head that was noted elsewhere. The chain does not bind root
or the signer's user: who can write the file can write another chain.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from agent.core.canonical import MAX_INTEGER, Reader, decode, encode, is_text, shown
from agent.core.errors import FormatError, TeeAgentError, VerificationError

TYPE = "tee-agent/audit/v1"
FILE = "log.file"
"""Kind of the record that begins each file."""
SEVERITIES = ("info", "notice", "warning", "alert")
MAX_LINE = 16_384
"""Bytes of a line, its newline not counted."""
MAX_FIELDS = 24
MAX_TEXT = 512
"""UTF-8 bytes of a text in a record."""

_KEYS = frozenset({"boot_id", "caller", "fields", "kind", "prev", "seq", "severity", "time"})
_CALLER = frozenset({"container", "gid", "uid", "unit"})
_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}(?:\.[a-z][a-z0-9-]{0,31}){0,3}", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_BOOT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_SEVERITY = re.compile("|".join(SEVERITIES), re.ASCII)
_MAX_ID = (1 << 32) - 1


def digest(line: bytes) -> bytes:
    """32 bytes: what the next line names, and the log's head while there is none."""
    return hashlib.sha256(TYPE.encode() + b"\0" + line).digest()


START = digest(b"")
"""What the very first line names."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line. ``time`` is the guest's claim (aware, whole seconds); ``caller`` has uid, gid, unit and container."""

    seq: int
    time: datetime
    boot_id: str
    kind: str
    severity: str
    caller: Mapping[str, Any] | None
    fields: Mapping[str, Any]
    prev: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """Where a verified chain ends: ``seq`` and ``digest`` (32 bytes) of its last line; ``first`` and ``last`` are
    the records at its ends. ``after`` counts the lines behind the expected head, 0 where none was given."""

    seq: int
    digest: bytes
    first: Record
    last: Record
    after: int = 0


def record(prev: bytes, fields: Mapping[str, Any]) -> bytes:
    """The line of these fields (all of a record's but ``prev``), without newline. Raises FormatError, Oversized."""
    line = encode({**fields, "prev": prev.hex()})
    read(line)  # one set of rules, whoever made it
    return line


def read(line: bytes) -> Record:
    """One line, strictly. Raises FormatError, Oversized."""
    reader = Reader(decode(line, "audit record", MAX_LINE), "audit record", _KEYS)
    return Record(
        seq=reader.integer("seq"),
        time=reader.time("time"),
        boot_id=reader.text("boot_id", 36, _BOOT_ID),
        kind=reader.text("kind", 131, _KIND),
        severity=reader.text("severity", 7, _SEVERITY),
        caller=_caller(reader.item("caller")),
        fields=_fields(reader.item("fields")),
        prev=reader.hexadecimal("prev", 32),
    )


def _caller(value: Any) -> Mapping[str, Any] | None:
    if value is None:
        return None
    reader = Reader(value, "audit record's caller", _CALLER)
    return {
        "uid": reader.integer("uid", 0, _MAX_ID),
        "gid": reader.integer("gid", 0, _MAX_ID),
        "unit": reader.text("unit", MAX_TEXT),
        "container": reader.text("container", MAX_TEXT),
    }


def _fields(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or len(value) > MAX_FIELDS:
        raise FormatError(f"audit record: fields are not an object of at most {MAX_FIELDS}", record="audit record")
    for name, item in value.items():
        if not _NAME.fullmatch(name) or not _plain(item):
            raise FormatError(f"audit record: field {shown(name)} is not plain", record="audit record")
    return value


def _plain(value: Any) -> bool:
    if isinstance(value, str):
        return is_text(value, MAX_TEXT)
    return value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) <= MAX_INTEGER)


class Points(Protocol):
    """What else a log is held against while it is read (agent.core.auditpoints). Both raise VerificationError."""

    def take(self, record: Record, line_digest: bytes) -> None:
        """The next record, which follows the one before."""

    def end(self, last: int) -> None:
        """All is read; ``last`` is the last record's number."""


class Chain:
    """Takes a log's lines one by one; memory does not grow. ``expected``: a head that must be among them; ``points``
    must be too."""

    def __init__(self, expected: bytes | None = None, points: Points | None = None) -> None:
        self._expected = expected
        self._points = points
        self._after: int | None = None
        self._head: Head | None = None

    def take(self, line: bytes, *, begins_file: bool = False) -> Record:
        """The next line, without its newline. Raises VerificationError (``verify.audit``)."""
        try:
            found = read(line)
        except TeeAgentError as error:
            raise broken(f"no audit record: {error.message}") from error
        self._require_next(found, begins_file=begins_file)
        self._head = Head(found.seq, digest(line), self._head.first if self._head else found, found)
        if self._points:
            self._points.take(found, self._head.digest)
        if self._after is not None:
            self._after += 1
        elif self._head.digest == self._expected:
            self._after = 0
        return found

    def _require_next(self, found: Record, *, begins_file: bool) -> None:
        head = self._head
        if (begins_file or head is None) and found.kind != FILE:
            raise broken(f"a file begins with {shown(found.kind)}, not with {FILE}: lines before it are missing")
        if head is None:
            if not found.seq and found.prev != START:
                raise broken("the first record of all names a record before it")
            return
        if found.seq != head.seq + 1:
            raise broken(f"record {found.seq} follows record {head.seq}: lines are missing, doubled or moved")
        if found.prev != head.digest:
            raise broken(f"record {found.seq} does not name the line before it: one of the two was changed")

    def end(self) -> Head:
        """All lines are taken. Raises VerificationError."""
        head = self._head
        if head is None:
            raise broken("there is no record")
        if self._expected is not None and self._after is None:
            raise broken(f"no record is the head {self._expected.hex()}: the log was cut or made anew")
        if self._points:
            self._points.end(head.seq)
        return Head(head.seq, head.digest, head.first, head.last, self._after or 0)


def broken(message: str) -> VerificationError:
    """What is wrong with a log."""
    return VerificationError(message, hint="docs/audit.md says what this can mean", code="verify.audit")


def verify(lines: Iterable[bytes], expected_head: bytes | None = None) -> Head:
    """A log's lines, without newlines, from a file's first to the end. Raises VerificationError naming the line.

    ``expected_head`` (32 bytes) must be the digest of one of the lines; without it the end is not secured.
    """
    chain = Chain(expected_head)
    for number, line in enumerate(lines, 1):
        try:
            chain.take(line)
        except VerificationError as error:
            raise broken(f"line {number}: {error.message}") from error
    return chain.end()


def split(data: bytes) -> Iterator[bytes]:
    """A file's lines. Raises VerificationError where the last has no newline."""
    *lines, rest = data.split(b"\n")
    yield from lines
    if rest:
        raise broken(f"line {len(lines) + 1}: {len(rest)} bytes without a newline: its writer was killed")
