"""The compact bundle: a bundle whose attachments are named by their digest (docs/bundle.md has both byte by byte).

A signature is some 600 bytes then, and what is the same for thousands of them is fetched once. Compact bundle and
attachments make the bundle again, byte for byte, and its signature is the same: nothing is verified but the bundle.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.core import canonical
from agent.core.bundle import TEXT_BYTES, Bundle, Frame
from agent.core.bundle_parts import Attachments, Fresh, Payload, read_fresh, read_payload
from agent.core.errors import BindingMismatch, UnsupportedVersion

TYPE = "tee-agent/compact/v1"
MEDIA_TYPE = "application/vnd.tee-agent.compact+json"
MAX_BYTES = 1 << 16
"""Longest compact bundle that is read or written: a fresh one has some 14 KiB at the most."""
SIGNATURE_SIZES = (64, 96)
"""Smallest and largest signature in bytes; which one, only the key in the attachments says."""
_KEYS = frozenset({"attachments", "audience", "context", "fresh", "payload", "signature", "type"})


@dataclass(frozen=True, slots=True)
class Compact:
    """One signature, not verified by being here. ``attachments`` is the digest (64 bytes) of what it lacks."""

    attachments: bytes
    payload: Payload
    context: str
    audience: str
    fresh: Fresh | None
    signature: bytes


def encode(bundle: Bundle) -> bytes:
    """The compact form of a signed bundle. Raises FormatError without a signature or over MAX_BYTES."""
    bundle.require_signature()
    return frame(bundle).filled(bundle.payload.canonical(), bundle.signature)


def frame(bundle: Bundle) -> Frame:
    """Of the compact form, for agent.core.bundle.Series."""
    digest = bundle.attachments.digest.hex().encode("ascii")
    before = b'{"attachments":"%s","audience":%s,"context":%s,"fresh":%s,"payload":' % (digest, *bundle.parts()[:3])
    return Frame((before,), (b',"type":"tee-agent/compact/v1"}',), MAX_BYTES, "compact bundle")


def decode(data: bytes) -> Compact:
    """Strict: canonical, at most MAX_BYTES, exactly the known members. Raises FormatError, Oversized."""
    document = canonical.decode(data, "compact bundle", MAX_BYTES)
    if document.get("type") != TYPE:
        found = canonical.shown(str(document.get("type")))
        raise UnsupportedVersion(
            f"not a compact bundle of type {TYPE}: {found}", record="compact bundle", expected=TYPE
        )
    top = canonical.Reader(document, "compact bundle", _KEYS)
    return Compact(
        top.hexadecimal("attachments", 64),
        read_payload(top.item("payload")),
        top.text("context", TEXT_BYTES),
        top.text("audience", TEXT_BYTES),
        None if top.item("fresh") is None else read_fresh(top.item("fresh")),
        top.base64("signature", *SIGNATURE_SIZES),
    )


def join(compact: Compact, attachments: Attachments) -> Bundle:
    """The whole bundle, as it would have been issued.

    Raises BindingMismatch for attachments other than those that the signature covers, FormatError for a signature
    that is none of their key's algorithm.
    """
    if compact.attachments != attachments.digest:
        raise BindingMismatch(
            f"the attachments have the digest {attachments.digest.hex()[:16]}..., "
            f"the compact bundle names {compact.attachments.hex()[:16]}...",
            hint=f"GET /v1/attachments/{compact.attachments.hex()}, from the agent that signed",
            code="verify.binding.attachments",
        )
    bundle = Bundle(compact.payload, compact.context, compact.audience, attachments, compact.fresh, compact.signature)
    bundle.require_signature()
    return bundle
