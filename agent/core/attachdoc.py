"""The attachments document: what many signatures share, apart from them (docs/bundle.md has it byte by byte).

The members of a key document, but the evidence may be over a batch of challenges instead of the key. It is named by
the digest that compact bundles carry, and believed only with one of them: nothing here verifies.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.core import bundle, canonical, keydoc
from agent.core.attached import Form
from agent.core.bundle_parts import MAX_BYTES, Attachments

TYPE = "tee-agent/attachments/v1"
MEDIA_TYPE = "application/vnd.tee-agent.attachments+json"
_FORM = Form(TYPE, "attachments", MAX_BYTES)


def build(attachments: Attachments) -> bytes:
    """The document. Raises FormatError over MAX_BYTES."""
    return document(attachments.members)


def document(members: Mapping[str, bytes]) -> bytes:
    """The same of ``Attachments.members``."""
    return _FORM.write(members)


def decode(data: bytes) -> Attachments:
    """Strict: canonical, at most MAX_BYTES, exactly the known members. Raises FormatError, Oversized."""
    return _FORM.read(data)


def decode_any(data: bytes) -> Attachments:
    """Attachments out of their own document, a key document or a whole bundle. Raises as each of them."""
    kind = canonical.parse(data, "attachments", MAX_BYTES).get("type")
    if kind == keydoc.TYPE:
        return keydoc.decode(data)
    if kind == bundle.TYPE:
        return bundle.decode(data).attachments
    return decode(data)
