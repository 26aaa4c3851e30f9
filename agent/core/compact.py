"""The compact bundle: a bundle whose attachments are named by their digest (docs/bundle.md has both byte by byte).

A signature is some 600 bytes then, and what is the same for thousands of them is fetched once. Compact bundle and
attachments make the bundle again, byte for byte, and its signature is the same: nothing is verified but the bundle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.core import canonical
from agent.core.bundle import TEXT_BYTES, Bundle, body, signing_input
from agent.core.bundle_parts import Attachments, Fresh, Payload, base64, read_fresh, read_payload
from agent.core.errors import BindingMismatch, FormatError, UnsupportedVersion

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
    return _document(bundle.attachments.digest, body(bundle.parts()), bundle.signature)


def signed(draft: Bundle, sign: Callable[[bytes], bytes]) -> bytes:
    """``encode(draft.signed(sign(draft.signing_input())))``, the members written once: for signers in a hurry."""
    digest, head = draft.attachments.digest, body(draft.parts())
    return _document(digest, head, sign(signing_input(digest, head)))


class Series:
    """Compact bundles that differ in nothing but the payload, as fast as they can be signed.

    ``draft`` has what is the same: context, audience, attachments. Raises FormatError for a fresh one: its proof is
    about one payload.
    """

    def __init__(self, draft: Bundle, sign: Callable[[bytes], bytes]) -> None:
        if draft.fresh:
            raise FormatError("a fresh proof is about one payload", record="compact bundle")
        self._digest, self._sign = draft.attachments.digest, sign
        audience, context, fresh, _ = draft.parts()
        self._before = b'"audience":%s,"context":%s,"fresh":%s,"payload":' % (audience, context, fresh)

    def signed(self, payload: Payload) -> bytes:
        """``encode`` of the draft with this payload, signed."""
        head = self._before + payload.canonical()
        return _document(self._digest, head, self._sign(signing_input(self._digest, head)))


def _document(digest: bytes, head: bytes, signature: bytes) -> bytes:
    data = b'{"attachments":"%s",%s,"signature":%s,"type":"tee-agent/compact/v1"}' % (
        digest.hex().encode("ascii"),
        head,
        base64(signature),
    )
    if len(data) > MAX_BYTES:
        raise FormatError(f"a compact bundle of {len(data)} bytes, {MAX_BYTES} are allowed", record="compact bundle")
    return data


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
