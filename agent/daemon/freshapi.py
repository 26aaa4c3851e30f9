"""Evidence made after the request came: POST /v1/challenge, and ``fresh=true`` where a bundle is signed (docs/api.md).

Each of them costs a place in a tree, so each needs the operation ``challenge``; a fresh signature needs ``sign`` too.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent.core import canonical, compact
from agent.core.access import Decision, Wish
from agent.core.bundle import TEXT_BYTES
from agent.core.challenge import MAX_OBJECT, NONCE_MAX, NONCE_MIN
from agent.core.errors import FormatError, UsageError
from agent.daemon import body, bulk, payloads
from agent.daemon.asked import Answered, Asked, Challenge, Holder
from agent.daemon.batch import Batcher
from agent.daemon.dispatch import Act, Call, as_bytes, require_type
from agent.daemon.formats import BUNDLE_TYPE, BUNDLES, NOTHING, Means, accepted
from agent.daemon.guard import Guard
from agent.daemon.holders import OwnHolder
from agent.daemon.journal import Reports
from agent.daemon.keys import KeyRing
from agent.daemon.web import Response

OPTIONS = frozenset({"fresh", "nonce"})
"""Of the query, where a bundle is signed."""
JSON_TYPE = "application/json"
"""Taken for what it is: all our answers here are JSON, and clients that send JSON ask for it unbidden."""
MAX_CHALLENGES = 100
"""In a request; fewer where fewer fit in a tree."""
MAX_BYTES = 512 * 1024
"""Of a batch of challenges: so many with as many claims as may be."""
MAX_NESTED = 4096
"""Lists in such a batch, and objects: a hundred thousand empty ones take a parser as long as nobody should wait."""
NONCE_SIZE = 32
"""Bytes of the nonce that the agent makes where the caller has none."""
_DEFAULTS: Mapping[str, Any] = {"context": "", "audience": "", "claims": {}, "payload": None}
_REQUIRED = frozenset({"nonce"})
_KEYS = _REQUIRED | _DEFAULTS.keys()


@dataclass(frozen=True, slots=True)
class FreshApi:
    """The handlers."""

    ring: KeyRing
    batcher: Batcher
    guard: Guard
    reports: Reports
    means: Means

    async def challenge(self, call: Call) -> tuple[Wish, Act]:
        """Bundles with evidence made after the nonces came: one, or of a batch one for each."""
        body.query(call.request, frozenset())
        caller = call.peer.caller.document()
        if call.request.content_type == bulk.TYPE:
            return await self._batch(call, caller)
        require_type(call.request, JSON_TYPE)
        asked = _challenge(await body.document(call.request, _REQUIRED, _DEFAULTS), caller)

        async def act(_: Decision) -> Response:
            return await self._one(call, OwnHolder(self.ring), asked, _form(call))

        return _wish(asked), act

    async def _batch(self, call: Call, caller: Mapping[str, Any]) -> tuple[Wish, Act]:
        self.batcher.require_room(call.peer.caller.uid)
        async with self.means.memory.whole(call.request, call.peer.caller.uid, MAX_BYTES) as data:
            items = _items(data, min(MAX_CHALLENGES, self.batcher.most))
            asked = await self.means.bulk.each(partial(_item, caller), [*enumerate(items)])

        async def act(_: Decision) -> Response:
            accepted(call.request, bulk.TYPE, JSON_TYPE)
            for wish in {_wish(one) for one in asked}:
                self.guard.require(call.peer, wish)
            found = await self._answered(call, OwnHolder(self.ring), asked, compact.MEDIA_TYPE)
            digest = found.attachments.digest.hex().encode("ascii")
            return as_bytes(b'{"attachments":"%s","bundles":[%s]}\n' % (digest, b",".join(found.documents)), bulk.TYPE)

        return _wish(asked[0]), act

    async def signed(self, call: Call, holder: Holder, options: Mapping[str, str], whose: str = "") -> Response:
        """A bundle over the body, or over a digest of it, whose evidence was made after it came.

        ``options`` has fresh, nonce, context and audience as the query gave them; ``whose`` the key's name, as
        formats.Means has it. The caller is allowed to sign. Raises Denied unless a challenge is allowed, as
        Batcher.answer (before the body is read where there is no room), and as agent.daemon.payloads.
        """
        nonce = _nonce(options.get("nonce", ""))
        context, audience = options.get("context", ""), options.get("audience", "")
        self.guard.require(call.peer, Wish("challenge", context=context, audience=audience))
        if call.request.content_type == bulk.TYPE:
            raise UsageError("fresh signatures come one by one", hint="or POST /v1/challenge", code="usage.batch")
        media_type = _form(call)
        self.batcher.require_room(call.peer.caller.uid)
        payload = await payloads.payload(call.request)
        asked = Challenge(nonce, payload, context, audience, call.peer.caller.document(), {})
        return await self._one(call, holder, asked, media_type, whose)

    async def _one(self, call: Call, holder: Holder, asked: Challenge, media_type: str, whose: str = "") -> Response:
        found = await self._answered(call, holder, (asked,), media_type, whose)
        named = {"Tee-Key-Id": found.attachments.key_sha256.hex()} if whose else {}
        return as_bytes(found.documents[0], media_type, **named)

    async def _answered(
        self, call: Call, holder: Holder, asked: Sequence[Challenge], media_type: str, whose: str = ""
    ) -> Answered:
        form = partial(self.means.bundle, media_type=media_type, whose=whose)
        found = await self.batcher.answer(Asked(holder, asked, call.peer.caller.uid, form))
        self.reports.signed(call.peer.caller, found.attachments.key_sha256.hex(), len(asked))
        return found


def wanted(options: Mapping[str, str]) -> bool:
    """Whether a query asks for a fresh signature. Raises UsageError."""
    fresh = options.get("fresh", "false")
    if fresh not in ("true", "false"):
        raise UsageError("fresh: true or false")
    if fresh == "false" and "nonce" in options:
        raise UsageError("a nonce goes with fresh=true")
    return fresh == "true"


def _form(call: Call) -> str:
    """Of the answer. Raises UsageError (``usage.accept``)."""
    media_type = accepted(call.request, *BUNDLES, JSON_TYPE)
    return BUNDLE_TYPE if media_type == JSON_TYPE else media_type


def _nonce(text: str) -> bytes:
    if not text:
        return secrets.token_bytes(NONCE_SIZE)
    return canonical.Reader({"nonce": text}, "query", _REQUIRED).hexadecimal("nonce", NONCE_MIN, NONCE_MAX)


def _wish(asked: Challenge) -> Wish:
    return Wish("challenge", context=asked.context, audience=asked.audience)


def _items(data: bytes, most: int) -> Sequence[Any]:
    """The challenges of a batch, as JSON. Raises FormatError, before parsing what would hold others up."""
    if any(bulk.exceeds(data, mark, MAX_NESTED) for mark in (b"[", b"{")):
        raise FormatError(f"more than {MAX_NESTED} of [ or {{ in a batch", record="batch")
    batch = canonical.Reader(canonical.parse(data, "batch", MAX_BYTES), "batch", frozenset({"challenges"}))
    items = batch.item("challenges")
    if not isinstance(items, list) or not 1 <= len(items) <= most:
        raise FormatError(f"challenges: a list of 1 to {most}", record="batch")
    return items


def _item(caller: Mapping[str, Any], numbered: tuple[int, Any]) -> Challenge:
    """Raises FormatError that names it."""
    number, item = numbered
    what = f"challenges[{number}]"
    fields = {**_DEFAULTS, **item} if isinstance(item, dict) else item
    return _challenge(canonical.Reader(fields, what, _KEYS), caller)


def _challenge(fields: canonical.Reader, caller: Mapping[str, Any]) -> Challenge:
    payload = fields.item("payload")
    return Challenge(
        fields.hexadecimal("nonce", NONCE_MIN, NONCE_MAX),
        NOTHING if payload is None else payloads.digest(payload),
        fields.text("context", TEXT_BYTES),
        fields.text("audience", TEXT_BYTES),
        caller,
        _claims(fields),
    )


def _claims(fields: canonical.Reader) -> Mapping[str, Any]:
    value = fields.item("claims")
    if not isinstance(value, dict) or len(canonical.encode(value)) > MAX_OBJECT:
        raise FormatError(f"{fields.what}: claims: an object of at most {MAX_OBJECT} bytes", record="request")
    return value
