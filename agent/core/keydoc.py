"""The key document: a key with its statement and the evidence that binds both, and no signature of its own.

It is what a bundle attaches to every signature, alone: verifiers of JWS, COSE_Sign1, raw and ssh signatures need it
once per key. Canonical JSON (RFC 8785) of ``endorsements``, ``evidence``, ``key``, ``statement``, ``type``;
docs/formats.md has it byte by byte. Nothing here verifies.
"""

from __future__ import annotations

from agent.core import binding, canonical
from agent.core.bundle_parts import Attachments, read_attachments
from agent.core.errors import FormatError, UnsupportedVersion
from agent.core.model import ReportData

TYPE = "tee-agent/key/v1"
MEDIA_TYPE = "application/vnd.tee-agent.key+json"
MAX_BYTES = 1 << 20
"""Longest document that is read or written."""
_KEYS = frozenset({"endorsements", "evidence", "key", "statement", "type"})


def build(attachments: Attachments) -> bytes:
    """The document of a key. ``attachments`` hold evidence over the key itself. Raises FormatError over MAX_BYTES."""
    members = {"type": canonical.encode(TYPE), **attachments.members}
    data = b"{" + b",".join(b'"%s":%s' % (name.encode(), members[name]) for name in sorted(members)) + b"}"
    if len(data) > MAX_BYTES:
        raise FormatError(f"a key document of {len(data)} bytes, {MAX_BYTES} are allowed", record="key document")
    return data


def decode(data: bytes) -> Attachments:
    """Strict: canonical, at most MAX_BYTES, exactly the known members. Raises FormatError, Oversized."""
    document = canonical.decode(data, "key document", MAX_BYTES)
    if document.get("type") != TYPE:
        found = canonical.shown(str(document.get("type")))
        raise UnsupportedVersion(f"not a key document of type {TYPE}: {found}", record="key document", expected=TYPE)
    return read_attachments(canonical.Reader(document, "key document", _KEYS))


def report_data(attachments: Attachments) -> ReportData:
    """What the evidence of a key must carry: the key and its statement (agent.core.binding)."""
    statement = attachments.statement
    return binding.signing_key(
        attachments.scope, attachments.algorithm.name, statement.use, attachments.spki, statement.digest()
    )
