"""The statement of a key: what it is for, for whom, where it is kept, from when to when (DESIGN.md section 5).

Fixed with the key's evidence: its digest goes into REPORT_DATA beside the key, so neither can be swapped. Times are the
guest's claim unless ``time_source`` says otherwise; docs/bundle.md has the form byte by byte.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from agent.core import canonical
from agent.core.errors import FormatError, OutOfValidity, UnsupportedVersion
from agent.core.model import Nonce

TYPE = "tee-agent/statement/v2"
USES = frozenset({"bundle", "raw", "jws", "cose", "eat", "ssh", "internal"})
"""What a key may sign: one use for its whole life."""
TIME_SOURCES = frozenset({"guest", "challenge", "tas"})
MEMORY = "memory"
STORAGES = frozenset({MEMORY, "tas", "snp-derived"})
"""Where a private key is kept: in memory alone, or also on the disk, sealed under a root of that kind (agent.sealing).

One of them for a key's whole life: what was sealed under one kind of root is never sealed under another (docs/keys.md).
"""
MAX_LIFETIME = timedelta(hours=24)
MAX_BYTES = 4096
TEXT_BYTES = 256
"""Longest owner and audience, in UTF-8 bytes."""

BOOT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*", re.ASCII)
_KEYS = frozenset(
    {
        "agent_version",
        "algorithm",
        "audience",
        "audit",
        "boot_id",
        "created",
        "expires",
        "owner",
        "storage",
        "tas_nonce",
        "time_source",
        "type",
        "use",
    }
)
_AUDIT = frozenset({"head", "seq"})


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Where an audit log stood: ``seq`` and ``head``, the digest in 64 hex digits, of its last line (docs/audit.md)."""

    seq: int
    head: str


@dataclass(frozen=True)
class Statement:
    """Immutable and checked: raises FormatError for a value out of its domain.

    ``created`` and ``expires`` are aware, whole seconds; ``owner`` names who may use the key (for example "uid:0" or
    "unit:app.service"), ``audience`` whom the agent's configuration makes keys for ("" for anybody); ``storage`` says
    where the private key is kept (STORAGES); ``tas_nonce`` is the newest nonce that the attestation service gave this
    agent, or None; ``audit`` is the end of the agent's audit log as it was on the disk before the key had evidence, or
    None where the log could not be written.
    """

    use: str
    algorithm: str
    created: datetime
    expires: datetime
    owner: str
    audience: str
    storage: str
    boot_id: str
    time_source: str
    tas_nonce: str | None
    agent_version: str
    audit: AuditHead | None

    def __post_init__(self) -> None:
        _read(self.to_json())  # one set of rules, whoever made it
        for moment in (self.created, self.expires):
            if moment.microsecond or moment.utcoffset() != timedelta(0):
                raise FormatError("statement: times are whole seconds in UTC", record="statement")

    def to_json(self) -> dict[str, Any]:
        """The document, as it stands in a bundle."""
        return {
            "type": TYPE,
            "use": self.use,
            "algorithm": self.algorithm,
            "created": canonical.rfc3339(self.created),
            "expires": canonical.rfc3339(self.expires),
            "owner": self.owner,
            "audience": self.audience,
            "storage": self.storage,
            "boot_id": self.boot_id,
            "time_source": self.time_source,
            "tas_nonce": self.tas_nonce,
            "agent_version": self.agent_version,
            "audit": {"seq": self.audit.seq, "head": self.audit.head} if self.audit else None,
        }

    @cached_property
    def _canonical(self) -> bytes:
        text = canonical.text
        audit = b'{"head":%s,"seq":%d}' % (text(self.audit.head), self.audit.seq) if self.audit else b"null"
        return (
            b'{"agent_version":%s,"algorithm":%s,"audience":%s,"audit":%s,"boot_id":%s,"created":%s,"expires":%s,'
            b'"owner":%s,"storage":%s,"tas_nonce":%s,"time_source":%s,"type":"tee-agent/statement/v2","use":%s}'
        ) % (
            *(text(self.agent_version), text(self.algorithm), text(self.audience), audit, text(self.boot_id)),
            *(text(canonical.rfc3339(self.created)), text(canonical.rfc3339(self.expires)), text(self.owner)),
            *(text(self.storage), b"null" if self.tas_nonce is None else text(self.tas_nonce), text(self.time_source)),
            text(self.use),
        )

    def canonical(self) -> bytes:
        """The canonical bytes of ``to_json``."""
        return self._canonical

    def digest(self) -> bytes:
        """SHA-512 of the canonical bytes: 64 bytes."""
        return hashlib.sha512(self._canonical).digest()

    def check_time(self, at: datetime, skew: timedelta) -> None:
        """Raises OutOfValidity unless ``created - skew <= at <= expires + skew``."""
        if at < self.created - skew:
            raise OutOfValidity(
                f"the key's statement begins at {canonical.rfc3339(self.created)}, after {canonical.rfc3339(at)}",
                hint="is the clock right? --at says for which instant to verify",
            )
        if at > self.expires + skew:
            raise OutOfValidity(
                f"the key's statement ended at {canonical.rfc3339(self.expires)}, before {canonical.rfc3339(at)}",
                hint="to judge it as of then, give an instant at which it was in force: --at",
            )

    @classmethod
    def from_json(cls, document: Any) -> Statement:
        """Strict: exactly the known fields, each in its domain. Raises FormatError."""
        statement = object.__new__(cls)  # not cls(...), which would read it all a second time
        vars(statement).update(_read(document))
        return statement

    @classmethod
    def parse(cls, data: bytes) -> Statement:
        """From canonical bytes. Raises FormatError, Oversized."""
        return cls.from_json(canonical.decode(data, "statement", MAX_BYTES))


def _read(document: Any) -> dict[str, Any]:
    _require_version(document)
    reader = canonical.Reader(document, "statement", _KEYS)
    values: dict[str, Any] = {
        "use": _one_of(reader, "use", USES),
        "algorithm": reader.text("algorithm", 32, _WORD, "the name of an algorithm"),
        "created": reader.time("created"),
        "expires": reader.time("expires"),
        "owner": reader.text("owner", TEXT_BYTES),
        "audience": reader.text("audience", TEXT_BYTES),
        "storage": _one_of(reader, "storage", STORAGES),
        "boot_id": reader.text("boot_id", 36, BOOT_ID, "a boot id (lower-case UUID)"),
        "time_source": _one_of(reader, "time_source", TIME_SOURCES),
        "tas_nonce": _tas_nonce(reader.item("tas_nonce")),
        "agent_version": reader.text("agent_version", 64, _WORD, "a version"),
        "audit": _audit(reader.item("audit")),
    }
    lifetime = values["expires"] - values["created"]
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        raise FormatError("statement: a key lives more than 0 and at most 24 hours", record="statement")
    return values


def _require_version(document: Any) -> None:
    """Before the fields are counted: another version has others, and to say which are missing would mislead."""
    found = document.get("type", TYPE) if isinstance(document, dict) else TYPE
    if found != TYPE:
        name = canonical.shown(found) if isinstance(found, str) else "no text"
        raise UnsupportedVersion(f"statement: its type is {name}; only {TYPE} is read", record="statement")


def _one_of(reader: canonical.Reader, key: str, allowed: frozenset[str]) -> str:
    value = reader.text(key, 16)
    if value not in allowed:
        raise FormatError(f"statement: {key} is not one of {', '.join(sorted(allowed))}", record="statement")
    return value


def _tas_nonce(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise FormatError("statement: tas_nonce is neither null nor text", record="statement")
    return Nonce(value).text


def _audit(value: Any) -> AuditHead | None:
    if value is None:
        return None
    reader = canonical.Reader(value, "statement's audit", _AUDIT)
    return AuditHead(reader.integer("seq"), reader.hexadecimal("head", 32).hex())


def now_in_seconds(moment: datetime) -> datetime:
    """``moment`` cut to whole seconds in UTC, as a statement wants it."""
    return moment.astimezone(UTC).replace(microsecond=0)
