"""The key document: a key with its statement and the evidence that binds both, and no signature of its own.

It is what a bundle attaches to every signature, alone: verifiers of JWS, COSE_Sign1, raw and ssh signatures need it
once per key. Its form is that of agent.core.attached; docs/formats.md has it byte by byte. Nothing here verifies.
"""

from __future__ import annotations

from agent.core import binding
from agent.core.attached import Form
from agent.core.bundle_parts import Attachments
from agent.core.model import ReportData

TYPE = "tee-agent/key/v1"
MEDIA_TYPE = "application/vnd.tee-agent.key+json"
MAX_BYTES = 1 << 20
"""Longest document that is read or written."""
_FORM = Form(TYPE, "key document", MAX_BYTES)


def build(attachments: Attachments) -> bytes:
    """The document of a key. ``attachments`` hold evidence over the key itself. Raises FormatError over MAX_BYTES."""
    return _FORM.write(attachments.members)


def decode(data: bytes) -> Attachments:
    """Strict: canonical, at most MAX_BYTES, exactly the known members. Raises FormatError, Oversized."""
    return _FORM.read(data)


def report_data(attachments: Attachments) -> ReportData:
    """What the evidence of a key must carry: the key and its statement (agent.core.binding)."""
    statement = attachments.statement
    return binding.signing_key(
        attachments.scope, attachments.algorithm.name, statement.use, attachments.spki, statement.digest()
    )
