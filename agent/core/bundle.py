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
        head = b'{"audience":%s,"context":%s,"fresh":%s,"payload":%s,"type":"tee-agent/bundle/v1"}' % self.parts()
        return binding.tagged(PURPOSE, self.attachments.digest, head)

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
        return frame(self).filled(self.payload.canonical(), self.signature)


@dataclass(frozen=True, slots=True)
class Frame:
    """A document's parts ``before`` the payload and ``after`` the signature, which stand beside each other.

    Parts, not one text: the long ones are the attachments' own, however many frames there are.
    """

    before: tuple[bytes, ...]
    after: tuple[bytes, ...]
    limit: int
    record: str

    def filled(self, payload: bytes, signature: bytes) -> bytes:
        """The document. ``payload`` is canonical. Raises FormatError over ``limit``."""
        data = b"".join((*self.before, payload, b',"signature":', base64(signature), *self.after))
        if len(data) > self.limit:
            raise FormatError(f"a {self.record} of {len(data)} bytes, {self.limit} are allowed", record=self.record)
        return data


def frame(bundle: Bundle) -> Frame:
    """Of the whole bundle."""
    members = bundle.attachments.members
    audience, context, fresh, _ = bundle.parts()
    before = (
        b'{"audience":%s,"context":%s,"endorsements":' % (audience, context),
        members["endorsements"],
        b',"evidence":',
        members["evidence"],
        b',"fresh":%s,"key":' % fresh,
        members["key"],
        b',"payload":',
    )
    after = (b',"statement":', members["statement"], b',"type":"tee-agent/bundle/v1"}')
    return Frame(before, after, MAX_BYTES, "bundle")


class Series:
    """Signs bundles that differ in nothing but the payload. What is the same is written once: for signers in a hurry.

    ``draft`` has what is the same; ``framed`` is the form of the documents: ``frame``, or agent.core.compact.frame. A
    fresh draft's proof is about its own payload, and no other is signed.
    """

    def __init__(
        self, draft: Bundle, sign: Callable[[bytes], bytes], framed: Callable[[Bundle], Frame] = frame
    ) -> None:
        self._only = draft.payload if draft.fresh else None
        self._sign = sign
        self._frame = framed(draft)
        self._tagged = binding.tagged(PURPOSE, draft.attachments.digest)
        self._before = b'{"audience":%s,"context":%s,"fresh":%s,"payload":' % draft.parts()[:3]

    def signed(self, payload: Payload) -> bytes:
        """The document, as ``encode`` would give it. Raises FormatError over its limit, or for another payload than
        a fresh draft's."""
        if self._only not in (None, payload):
            raise FormatError("a fresh proof is about one payload", record="bundle")
        middle = payload.canonical()
        head = binding.field(b'%s%s,"type":"tee-agent/bundle/v1"}' % (self._before, middle))
        return self._frame.filled(middle, self._sign(self._tagged + head))


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
