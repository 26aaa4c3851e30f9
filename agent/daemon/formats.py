"""What a named key makes of a request, by its use: bundle, raw signature, JWS, COSE_Sign1 or EAT (docs/keys.md).

Each maker takes its own options only; the key's evidence is in force when it signs, whatever the body took.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent.core import cose, eat, jws
from agent.core.bundle import Bundle
from agent.core.errors import UsageError
from agent.core.statement import now_in_seconds
from agent.daemon import body, payloads
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
}
"""Of the query, by use."""
ALL_OPTIONS = frozenset().union(*OPTIONS.values())


@dataclass(frozen=True, slots=True)
class Order:
    """A request to sign with ``key``; ``current`` gives the same key with evidence in force, ``now`` the time.

    ``uid`` is the caller's, for its share of ``memory``.
    """

    request: Request
    uid: int
    key: NamedKey
    options: Mapping[str, str]
    current: Callable[[NamedKey], Awaitable[NamedKey]]
    now: Callable[[], datetime]
    memory: Memory

    def option(self, name: str, default: str = "") -> str:
        return self.options.get(name, default)


async def fulfil(order: Order) -> Response:
    """The answer. Raises UsageError (``usage.key-use`` where a key of this use signs nothing), and as the parts do."""
    use = order.key.use
    if use not in _MAKERS:
        raise UsageError(f"a key for {use} signs nothing here", hint="see docs/keys.md", code="usage.key-use")
    if unknown := sorted(order.options.keys() - OPTIONS[use]):
        raise UsageError(f"query: {unknown[0]} means nothing to a key for {use}")
    return await _MAKERS[use](order)


async def _bundle(order: Order) -> Response:
    payload = await payloads.payload(order.request)
    key = await order.current(order.key)
    draft = Bundle(payload, order.option("context"), order.option("audience"), key.attachments)
    return _answer(order, draft.signed(key.sign(draft.signing_input())).encode(), BUNDLE_TYPE)


async def _raw(order: Order) -> Response:
    if order.key.algorithm.hash:
        digest = await payloads.hashed(order.request, order.key.algorithm)
        signature = (await order.current(order.key)).private.sign_digest(digest)
    else:
        async with order.memory.whole(order.request, order.uid) as data:
            signature = (await order.current(order.key)).sign(data)
    return _answer(order, order.key.algorithm.to_der(signature), RAW_TYPE)


async def _jws(order: Order) -> Response:
    context, audience, typ = order.option("context"), order.option("audience"), order.option("typ", jws.TYPE)
    async with order.memory.whole(order.request, order.uid) as payload:
        key = await order.current(order.key)
        made = jws.build(key.sign, key.attachments.spki, payload, context=context, audience=audience, typ=typ)
    return _answer(order, made, JWS_TYPE)


async def _cose(order: Order) -> Response:
    detached = order.option("detached", "false")
    if detached not in ("true", "false"):
        raise UsageError("detached: true or false")
    texts = {name: order.option(name) for name in ("context", "audience", "content_type")}
    async with order.memory.whole(order.request, order.uid) as payload:
        key = await order.current(order.key)
        made = cose.build(key.sign, key.attachments.spki, payload, detached=detached == "true", **texts)
    return _answer(order, made, COSE_TYPE)


async def _eat(order: Order) -> Response:
    require_type(order.request, "application/json")
    defaults: dict[str, Any] = {"lifetime_seconds": EAT_SECONDS, "form": eat.JSON}
    fields = await body.document(order.request, frozenset({"nonce"}), defaults)
    nonce, form = fields.hexadecimal("nonce", eat.NONCE_MIN, eat.NONCE_MAX), fields.text("form", 8)
    life = timedelta(seconds=fields.integer("lifetime_seconds", 1, 86_400))
    if form not in EAT_TYPES:
        raise UsageError(f"form is not one of {', '.join(EAT_TYPES)}")
    key = await order.current(order.key)
    issued = now_in_seconds(order.now())
    claims = eat.Claims(nonce, order.option("audience"), issued, min(issued + life, key.statement.expires))
    return _answer(order, eat.build(key.sign, key.attachments, claims, form), EAT_TYPES[form])


def _answer(order: Order, data: bytes, media_type: str) -> Response:
    return as_bytes(data, media_type, **{"Tee-Key-Id": order.key.attachments.key_sha256.hex()})


_MAKERS: Mapping[str, Callable[[Order], Awaitable[Response]]] = {
    "bundle": _bundle,
    "raw": _raw,
    "jws": _jws,
    "cose": _cose,
    "eat": _eat,
}
