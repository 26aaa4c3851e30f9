"""The bundle: one signature with everything needed to believe it, offline (docs/bundle.md has it byte by byte).

A bundle is canonical JSON, so a document has one byte form; the key's signature covers every member but itself, and
the evidence covers the key. What stays the same between two signatures (evidence, endorsements, key, statement)
enters by a digest that ``Attachments`` keeps, so a signer hashes a few hundred bytes per signature.

Signer: ``draft = Bundle(payload, context, audience, attachments, fresh)``, then
``draft.signed(key.sign(draft.signing_input())).encode()``. Nothing here signs, verifies or reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.core import binding, canonical
from agent.core.bundle_parts import (
    ALGORITHM,
    MAX_BYTES,
    Attachments,
    Fresh,
    Payload,
    base64,
    read_attachments,
    read_fresh,
    read_payload,
)
from agent.core.challenge import Leaf
from agent.core.errors import FormatError, UnsupportedVersion
from agent.core.model import ReportData

__all__ = ["ALGORITHM", "MAX_BYTES", "TYPE", "USE", "Attachments", "Bundle", "Fresh", "Payload", "decode"]

TYPE = "tee-agent/bundle/v1"
USE = "bundle"
PURPOSE = "bundle-signature"
TEXT_BYTES = 256
"""Longest context and audience, in UTF-8 bytes."""
_KEYS = frozenset(
    {"audience", "context", "endorsements", "evidence", "fresh", "key", "payload", "signature", "statement", "type"}
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """One signature, not verified by being here: as many bytes as the key's algorithm makes, or none in a draft.

    ``context`` is the signer's domain separation as its caller chose it, ``audience`` whom the signature is for; both
    are text of at most 256 bytes. Raises FormatError.
    """

    payload: Payload
    context: str
    audience: str
    attachments: Attachments
    fresh: Fresh | None = None
    signature: bytes = b""

    def __post_init__(self) -> None:
        for name, value in (("context", self.context), ("audience", self.audience)):
            if not canonical.is_text(value, TEXT_BYTES):
                raise FormatError(
                    f"{name} is not text of at most {TEXT_BYTES} bytes without control characters", record="bundle"
                )

    def parts(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Audience, context, fresh and payload in their canonical bytes: the order of their names."""
        fresh = self.fresh.canonical() if self.fresh else b"null"
        return canonical.text(self.audience), canonical.text(self.context), fresh, self.payload.canonical()

    def signing_input(self) -> bytes:
        """What the key signs: ``tagged("bundle-signature", attachments digest, canonical head)``.

        The head is every member that is neither an attachment nor the signature.
        """
        return signing_input(self.attachments.digest, body(self.parts()))

    def signed(self, signature: bytes) -> Bundle:
        """This bundle with its signature."""
        return replace(self, signature=signature)

    def report_data(self) -> ReportData:
        """What the evidence must carry: the batch's root in fresh mode, else the key (agent.core.binding)."""
        attached = self.attachments
        if self.fresh:
            return binding.challenge_batch(attached.scope, self.fresh.tree_size, self.fresh.root)
        statement = attached.statement
        return binding.signing_key(
            attached.scope, attached.algorithm.name, statement.use, attached.spki, statement.digest()
        )

    def leaf(self) -> Leaf:
        """The leaf that fresh mode proves. Raises FormatError outside fresh mode."""
        if not self.fresh:
            raise FormatError("this bundle has no fresh proof", record="bundle")
        return Leaf(
            self.fresh.random,
            self.fresh.nonce,
            self.payload.digest,
            self.context,
            self.audience,
            self.attachments.key_sha256,
            self.attachments.statement.digest(),
            self.fresh.caller,
            self.fresh.claims_unverified,
        )

    def require_signature(self) -> None:
        """Raises FormatError unless the signature has the size that the key's algorithm gives it."""
        size = self.attachments.algorithm.signature_size
        if len(self.signature) != size:
            raise FormatError(f"a signature of {self.attachments.algorithm.name} has {size} bytes", record="bundle")

    def encode(self) -> bytes:
        """The canonical bytes. Raises FormatError without a signature or over MAX_BYTES."""
        self.require_signature()
        return self._document(self.parts(), self.signature)

    def issued(self, sign: Callable[[bytes], bytes]) -> bytes:
        """``self.signed(sign(self.signing_input())).encode()``, the members written once: for signers in a hurry."""
        parts = self.parts()
        return self._document(parts, sign(signing_input(self.attachments.digest, body(parts))))

    def _document(self, parts: tuple[bytes, bytes, bytes, bytes], signature: bytes) -> bytes:
        members = self.attachments.members
        audience, context, fresh, payload = parts
        data = (
            b'{"audience":%s,"context":%s,"endorsements":%s,"evidence":%s,"fresh":%s,"key":%s,"payload":%s,'
            b'"signature":%s,"statement":%s,"type":"tee-agent/bundle/v1"}'
        ) % (
            audience,
            context,
            members["endorsements"],
            members["evidence"],
            fresh,
            members["key"],
            payload,
            base64(signature),
            members["statement"],
        )
        if len(data) > MAX_BYTES:
            raise FormatError(f"a bundle of {len(data)} bytes, {MAX_BYTES} are allowed", record="bundle")
        return data


def body(parts: tuple[bytes, bytes, bytes, bytes]) -> bytes:
    """The head but for its type and braces, of ``Bundle.parts``."""
    return b'"audience":%s,"context":%s,"fresh":%s,"payload":%s' % parts


def signing_input(attachments_digest: bytes, head: bytes) -> bytes:
    """Of a head as ``body`` gives it, over attachments of this digest (64 bytes)."""
    return binding.tagged(PURPOSE, attachments_digest, b'{%s,"type":"tee-agent/bundle/v1"}' % head)


def decode(data: bytes) -> Bundle:
    """Strict: canonical, at most MAX_BYTES, exactly the known members. Raises FormatError, Oversized."""
    document = canonical.parse(data, "bundle", MAX_BYTES)
    if document.get("type") != TYPE:
        found = canonical.shown(str(document.get("type")))
        raise UnsupportedVersion(f"not a bundle of type {TYPE}: {found}", record="bundle", expected=TYPE)
    top = canonical.Reader(document, "bundle", _KEYS)
    attachments = read_attachments(top)
    size = attachments.algorithm.signature_size
    bundle = Bundle(
        read_payload(top.item("payload")),
        top.text("context", TEXT_BYTES),
        top.text("audience", TEXT_BYTES),
        attachments,
        None if top.item("fresh") is None else read_fresh(top.item("fresh")),
        top.base64("signature", size, size),
    )
    # The members' bytes made for this comparison are those that the signature's check hashes.
    canonical.require_same(bundle.encode(), data, "bundle")
    return bundle
