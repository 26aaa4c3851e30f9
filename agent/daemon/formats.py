"""What a named key makes of a request, by its use: bundle, raw or ssh signature, JWS, COSE_Sign1, EAT (docs/keys.md).

Each maker takes its own options only; the key's evidence is in force when it signs, whatever the body took. Of the
forms that a use has, Accept chooses one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any

from agent.core import compact, cose, eat, jws, sshsig
from agent.core.bundle import Bundle, Payload, Series
from agent.core.bundle_parts import base64
from agent.core.errors import UsageError
from agent.core.sshwire import PublicKey
from agent.core.statement import now_in_seconds
from agent.daemon import accept, body, bulk, payloads
from agent.daemon.attachments import AGENT, Current, Kept
from agent.daemon.bulk import Bulk, Count, Press
from agent.daemon.dispatch import as_bytes, require_type
from agent.daemon.named import NamedKey
from agent.daemon.payloads import Memory
from agent.daemon.web import Request, Response

BUNDLE_TYPE = "application/vnd.tee-agent.bundle+json"
RAW_TYPE = "application/octet-stream"
JWS_TYPE = "application/jose"
COSE_TYPE = "application/cose"
EAT_TYPES = {eat.JSON: "application/eat+jwt", eat.CBOR: "application/eat+cwt"}
EAT_SECONDS = 300
"""A token lives so long where nothing else is asked for."""
OPTIONS: Mapping[str, frozenset[str]] = {
    "bundle": frozenset({"context", "audience"}),
    "raw": frozenset(),
    "jws": frozenset({"context", "audience", "typ"}),
    "cose": frozenset({"context", "audience", "content_type", "detached"}),
    "eat": frozenset({"audience"}),
    "ssh": frozenset({"context"}),
}
"""Of the query, by use."""
ALL_OPTIONS = frozenset().union(*OPTIONS.values())
BUNDLES = (BUNDLE_TYPE, compact.MEDIA_TYPE)
"""The forms of a bundle, the one first that is given where Accept says nothing."""

NOTHING = Payload.of()

Sign = Callable[[bytes], bytes]
Make = Callable[[bytes], bytes]
"""Of a payload, or its digest: a signature in the form of the key's use."""


@dataclass(frozen=True, slots=True)
class Means:
    """What signing takes beside keys: room for payloads in memory, turns for batches, attachments by digest."""

    memory: Memory
    bulk: Bulk
    kept: Kept

    @classmethod
    def of(cls, current: Current) -> Means:
        """New ones; ``current`` as for Kept."""
        memory = Memory()
        return cls(memory, Bulk(memory), Kept(current))

    def maker(self, draft: Bundle, sign: Sign, media_type: str, whose: str = AGENT) -> Callable[[Payload], bytes]:
        """Makes bundles like the draft in one of the forms of BUNDLES, signed by the key that is called ``whose``."""
        if media_type == BUNDLE_TYPE:
            return Series(draft, sign).signed
        signed, keep = Series(draft, sign, compact.frame).signed, self.kept.keep

        def made(payload: Payload) -> bytes:
            keep(draft.attachments, whose)
            return signed(payload)

        return made

    def bundle(self, draft: Bundle, sign: Sign, media_type: str, whose: str = AGENT) -> bytes:
        """The draft itself."""
        return self.maker(draft, sign, media_type, whose)(draft.payload)

    def bundles(self, draft: Bundle, sign: Sign, count: Count, whose: str = AGENT) -> Press[Payload]:
        """For a batch: the draft's context, audience and attachments go with every payload."""
        self.kept.keep(draft.attachments, whose)
        return Press(
            Series(draft, sign, compact.frame).signed,
            count,
            b'"attachments":"%s",' % draft.attachments.digest.hex().encode("ascii"),
        )


@dataclass(frozen=True, slots=True)
class Order:
    """A request to sign with ``key``; ``current`` gives the same key with evidence in force, ``now`` the time.

    ``uid`` is the caller's; ``signed`` is told of each key and how many signatures it made; ``same`` says whether the
    request would find just this key now, its evidence in force.
    """

    request: Request
    uid: int
    key: NamedKey
    options: Mapping[str, str]
    current: Callable[[NamedKey], Awaitable[NamedKey]]
    same: Callable[[NamedKey], bool]
    now: Callable[[], datetime]
    signed: Callable[[NamedKey, int], None]
    means: Means

    def option(self, name: str, default: str = "") -> str:
        return self.options.get(name, default)

    def takes(self, *offered: str) -> str:
        """The form to answer in. Raises UsageError (``usage.accept``)."""
        return accepted(self.request, *offered)


def accepted(request: Request, *offered: str) -> str:
    """The one of ``offered`` that Accept likes best, else the first. Raises UsageError (``usage.accept``)."""
    return _choose(request.headers.get("Accept", ""), offered)


_choose = lru_cache(maxsize=64)(accept.choose)


async def fulfil(order: Order) -> Response:
    """The answer. Raises UsageError, and as the parts do."""
    use = order.key.use
    if unknown := sorted(order.options.keys() - OPTIONS[use]):
        raise UsageError(f"query: {unknown[0]} means nothing to a key for {use}")
    batch = order.request.content_type == bulk.TYPE
    return await (_batch(order) if batch else _MAKERS[use](order))


async def _batch(order: Order) -> Response:
    use = order.key.use
    if use not in _BATCHES:
        raise UsageError(f"a key for {use} takes no batches", hint="one request for each", code="usage.batch")
    media_type = order.takes(bulk.TYPE)
    read, press = _BATCHES[use]

    async def begin() -> Press[Any]:
        return press(order, await order.current(order.key))

    made = await order.means.bulk.answer(order.request, order.uid, partial(read, order), begin)
    return as_bytes(made, media_type, **_named(order.key))


async def _bundle(order: Order) -> Response:
    media_type = order.takes(*BUNDLES)
    payload = await payloads.payload(order.request)
    key = await order.current(order.key)
    make = order.means.maker(_draft(order, key), key.sign, media_type, whose(key))
    again = None if payloads.is_digest(order.request) else lambda data: make(Payload.of(data))
    return _answer(order, key, make(payload), media_type, again)


def _draft(order: Order, key: NamedKey) -> Bundle:
    return Bundle(NOTHING, order.option("context"), order.option("audience"), key.attachments)


async def _raw(order: Order) -> Response:
    media_type = order.takes(RAW_TYPE)
    if order.key.algorithm.hash:
        digest = await payloads.hashed(order.request, order.key.algorithm)
        key = await order.current(order.key)
        return _answer(order, key, _raw_maker(order, key)(digest), media_type)
    return await _whole(order, media_type, _raw_maker)


def _raw_maker(_: Order, key: NamedKey) -> Make:
    """Takes digests where the algorithm has a hash of its own, else payloads."""
    sign, to_der = key.private.sign_digest if key.algorithm.hash else key.sign, key.algorithm.to_der
    return lambda data: to_der(sign(data))


def _raw_item(order: Order, item: Any) -> bytes:
    algorithm = order.key.algorithm
    return payloads.hash_of_item(item, algorithm) if algorithm.hash else payloads.data_of_item(item)


async def _whole(order: Order, media_type: str, maker: Callable[[Order, NamedKey], Make]) -> Response:
    """Over a payload that has to be in memory."""
    order.takes(media_type)
    async with order.means.memory.whole(order.request, order.uid) as payload:
        key = await order.current(order.key)
        make = maker(order, key)
        made = make(payload)
    return _answer(order, key, made, media_type, make)


def _jws_maker(order: Order, key: NamedKey) -> Make:
    context, audience, typ = order.option("context"), order.option("audience"), order.option("typ", jws.TYPE)
    sign, spki = key.sign, key.attachments.spki
    return lambda payload: jws.build(sign, spki, payload, context=context, audience=audience, typ=typ)


def _cose_maker(order: Order, key: NamedKey) -> Make:
    detached = order.option("detached", "false")
    if detached not in ("true", "false"):
        raise UsageError("detached: true or false")
    texts = {name: order.option(name) for name in ("context", "audience", "content_type")}
    sign, spki = key.sign, key.attachments.spki
    return lambda payload: cose.build(sign, spki, payload, detached=detached == "true", **texts)


async def _eat(order: Order) -> Response:
    require_type(order.request, "application/json")
    defaults: dict[str, Any] = {"lifetime_seconds": EAT_SECONDS, "form": eat.JSON}
    fields = await body.document(order.request, frozenset({"nonce"}), defaults)
    nonce, form = fields.hexadecimal("nonce", eat.NONCE_MIN, eat.NONCE_MAX), fields.text("form", 8)
    life = timedelta(seconds=fields.integer("lifetime_seconds", 1, 86_400))
    if form not in EAT_TYPES:
        raise UsageError(f"form is not one of {', '.join(EAT_TYPES)}")
    media_type = order.takes(EAT_TYPES[form])
    key = await order.current(order.key)
    issued = now_in_seconds(order.now())
    claims = eat.Claims(nonce, order.option("audience"), issued, min(issued + life, key.statement.expires))
    return _answer(order, key, eat.build(key.sign, key.attachments, claims, form), media_type)


async def _ssh(order: Order) -> Response:
    media_type = order.takes(sshsig.MEDIA_TYPE)
    if not (namespace := order.option("context")):
        raise UsageError("context: an ssh signature has a namespace", hint="context=file, as with ssh-keygen -n file")
    payload = await payloads.payload(order.request)
    what = sshsig.FileSignature(namespace, sshsig.HASH, payload.digest)
    signed = what.encode()
    key = await order.current(order.key)
    return _answer(order, key, sshsig.build(PublicKey.of(key.attachments.spki), what, key.sign(signed)), media_type)


def whose(key: NamedKey) -> str:
    """The key as rules name it."""
    return f"{key.namespace}/{key.name}"


def _answer(order: Order, key: NamedKey, data: bytes, media_type: str, make: Make | None = None) -> Response:
    """``make``: what more bodies under the same head become."""
    order.signed(key, 1)
    response = as_bytes(data, media_type, **_named(key))
    if make:
        response.again = partial(_made_again, order, key, make)
    return response


def _made_again(order: Order, key: NamedKey, make: Make, data: bytes) -> bytes | None:
    """As Response.again."""
    if len(data) > payloads.MAX_WHOLE or not order.same(key):
        return None
    made = make(data)
    order.signed(key, 1)
    return made


def _named(key: NamedKey) -> dict[str, str]:
    return {"Tee-Key-Id": key.attachments.key_sha256.hex()}


_MAKERS: Mapping[str, Callable[[Order], Awaitable[Response]]] = {
    "bundle": _bundle,
    "raw": _raw,
    "jws": partial(_whole, media_type=JWS_TYPE, maker=_jws_maker),
    "cose": partial(_whole, media_type=COSE_TYPE, maker=_cose_maker),
    "eat": _eat,
    "ssh": _ssh,
}
"""What is made of one request, by use."""


def _bundle_press(order: Order, key: NamedKey) -> Press[Payload]:
    return order.means.bundles(_draft(order, key), key.sign, partial(order.signed, key), whose(key))


def _bytes_press(
    maker: Callable[[Order, NamedKey], Make], form: Callable[[bytes], bytes], order: Order, key: NamedKey
) -> Press[bytes]:
    make = maker(order, key)
    return Press(lambda data: form(make(data)), partial(order.signed, key))


def _text(made: bytes) -> bytes:
    """As a JSON string; nothing in a JWS needs an escape."""
    return b'"%s"' % made


_BATCHES: Mapping[str, tuple[Callable[[Order, Any], Any], Callable[[Order, NamedKey], Press[Any]]]] = {
    "bundle": (lambda _, item: payloads.of_item(item), _bundle_press),
    "raw": (_raw_item, partial(_bytes_press, _raw_maker, base64)),
    "jws": (lambda _, item: payloads.data_of_item(item), partial(_bytes_press, _jws_maker, _text)),
    "cose": (lambda _, item: payloads.data_of_item(item), partial(_bytes_press, _cose_maker, base64)),
}
"""How an item of a batch is read, and what is made of it, by use."""
