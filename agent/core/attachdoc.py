"""The attachments document: what many signatures share, apart from them (docs/bundle.md has it byte by byte).

The members of a key document, but the evidence may be over a batch of challenges instead of the key. It is named by
the digest that compact bundles carry, and believed only with one of them: nothing here verifies.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.core import bundle, canonical, keydoc
from agent.core.bundle_parts import MAX_BYTES, Attachments, read_attachments
from agent.core.errors import FormatError, UnsupportedVersion

TYPE = "tee-agent/attachments/v1"
MEDIA_TYPE = "application/vnd.tee-agent.attachments+json"
_KEYS = frozenset({"endorsements", "evidence", "key", "statement", "type"})


def build(attachments: Attachments) -> bytes:
    """The document. Raises FormatError over MAX_BYTES."""
    return document(attachments.members)


def document(members: Mapping[str, bytes]) -> bytes:
    """The same of ``Attachments.members``."""
    data = b'{"endorsements":%s,"evidence":%s,"key":%s,"statement":%s,"type":"tee-agent/attachments/v1"}' % (
        members["endorsements"],
        members["evidence"],
        members["key"],
        members["statement"],
    )
    if len(data) > MAX_BYTES:
        raise FormatError(f"attachments of {len(data)} bytes, {MAX_BYTES} are allowed", record="attachments")
    return data


def decode(data: bytes) -> Attachments:
    """Strict: canonical, at most MAX_BYTES, exactly the known members. Raises FormatError, Oversized."""
    document = canonical.decode(data, "attachments", MAX_BYTES)
    if document.get("type") != TYPE:
        found = canonical.shown(str(document.get("type")))
        raise UnsupportedVersion(f"not attachments of type {TYPE}: {found}", record="attachments", expected=TYPE)
    return read_attachments(canonical.Reader(document, "attachments", _KEYS))


def decode_any(data: bytes) -> Attachments:
    """Attachments out of their own document, a key document or a whole bundle. Raises as each of them."""
    kind = canonical.parse(data, "attachments", MAX_BYTES).get("type")
    if kind == keydoc.TYPE:
        return keydoc.decode(data)
    if kind == bundle.TYPE:
        return bundle.decode(data).attachments
    return decode(data)
