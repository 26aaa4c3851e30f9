"""The endpoints of named keys (docs/keys.md): made, listed, rotated, destroyed, and used for their one use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from agent.core import keydoc
from agent.core.access import Decision, Wish
from agent.core.errors import FormatError, TeeAgentError, UsageError
from agent.daemon import body, formats, freshapi
from agent.daemon.budget import payer_of
from agent.daemon.dispatch import Act, Call, as_bytes, as_json, require_type
from agent.daemon.formats import Means, Order, whose
from agent.daemon.freshapi import FreshApi
from agent.daemon.guard import Guard
from agent.daemon.holders import NamedHolder
from agent.daemon.journal import Reports
from agent.daemon.keys import KeyRing
from agent.daemon.keystore import MAX_LIFETIME, NAMESPACE, require_name
from agent.daemon.named import LEAST_LIFETIME, NamedKey, NamedKeys
from agent.daemon.report import describe_held, describe_key, describe_named
from agent.daemon.web import Response

MAX_SECONDS = MAX_LIFETIME
DEFAULT_OVERLAP = 3600
WHERE = frozenset({"namespace"})
WHICH = WHERE | {"generation"}
SIGN = WHICH | formats.ALL_OPTIONS | freshapi.OPTIONS | {"format"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a path and its query name: a key as the caller says it, and the texts of the query."""

    name: str
    namespace: str
    generation: int
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """As agent.core.access.Wish has it."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class KeyApi:
    """Handlers over the named keys; ``ring`` is the agent's own, for the list of all."""

    keys: NamedKeys
    ring: KeyRing
    guard: Guard
    reports: Reports
    means: Means
    fresh: FreshApi

    async def index(self, call: Call) -> tuple[Wish, Act]:
        """The agent's own key, and the named ones that this caller may see."""
        body.query(call.request, frozenset())

        async def act(_: Decision) -> Response:
            own = describe_key(await self.ring.current())
            named = (describe_named(key) for key in self.keys.all() if self._seen(call, key.namespace, key.name))
            held = sorted(key for key in self.keys.held if self._seen(call, *key))
            return as_json({"keys": [own, *named, *(describe_held(*key, self.keys.held[key]) for key in held)]})

        return Wish("keys.list"), act

    def _seen(self, call: Call, namespace: str, name: str) -> bool:
        return self.guard.decide(call.peer.caller, Wish("keys.list", key=f"{namespace}/{name}")).allowed

    async def show(self, call: Call) -> tuple[Wish, Act]:
        """One generation, with the numbers of all."""
        asked = _asked(call, WHICH)

        async def act(decision: Decision) -> Response:
            key = self._find(asked, decision.namespace)
            return as_json(describe_named(key))

        return Wish("keys.list", key=asked.key), act

    async def create(self, call: Call) -> tuple[Wish, Act]:
        """A new key."""
        body.query(call.request, frozenset())
        require_type(call.request, "application/json")
        defaults: dict[str, Any] = {"algorithm": "Ed25519", "lifetime_seconds": None, "namespace": ""}
        defaults["persistent"] = False
        fields = await body.document(call.request, frozenset({"name", "use"}), defaults)
        name, use, algorithm = fields.text("name", 63), fields.text("use", 16), fields.text("algorithm", 32)
        asked = _named(name, fields.text("namespace", 64), 0, {})
        lifetime = _seconds(fields.item("lifetime_seconds"), "lifetime_seconds", int(LEAST_LIFETIME.total_seconds()))
        persistent = _flag(fields.item("persistent"), "persistent")

        async def act(decision: Decision) -> Response:
            self.reports.require_writable()
            namespace = asked.namespace or decision.namespace
            told = self._told("key.created", call)
            payer = payer_of(call.peer.caller.uid)
            key = await self.keys.create(
                namespace, name, algorithm, use, lifetime, persistent=persistent, made=told, payer=payer
            )
            return as_json(describe_named(key), 201)

        return Wish("keys.create", key=asked.key, use=use, persistent=persistent), act

    async def rotate(self, call: Call) -> tuple[Wish, Act]:
        """A new generation of a key."""
        asked = _asked(call, WHERE)
        overlap = timedelta(seconds=DEFAULT_OVERLAP)
        if call.request.can_read_body:
            require_type(call.request, "application/json")
            fields = await body.document(call.request, frozenset(), {"overlap_seconds": DEFAULT_OVERLAP})
            overlap = timedelta(seconds=fields.integer("overlap_seconds", 0, MAX_SECONDS))

        async def act(decision: Decision) -> Response:
            self.reports.require_writable()
            old = self._find(asked, decision.namespace)
            told = self._told("key.rotated", call)
            payer = payer_of(call.peer.caller.uid)
            key = await self.keys.rotate(old.namespace, old.name, overlap, made=told, payer=payer)
            return as_json(describe_named(key))

        return Wish("keys.rotate", key=asked.key, use=self._use(asked, call)), act

    async def destroy(self, call: Call) -> tuple[Wish, Act]:
        """All generations of a key, for good."""
        asked = _asked(call, WHERE)

        async def act(decision: Decision) -> Response:
            self.reports.require_writable()
            namespace = asked.namespace or decision.namespace
            name = f"{namespace}/{asked.name}"

            async def gone(last: NamedKey | None) -> None:
                if last:
                    await self._told("key.destroyed", call)(last)
                else:
                    await self.reports.tell("key.destroyed", "notice", call.peer.caller, key=name)

            await self.keys.destroy(namespace, asked.name, gone)
            return as_json({"destroyed": name})

        return Wish("keys.destroy", key=asked.key, use=self._use(asked, call)), act

    async def sign(self, call: Call) -> tuple[Wish, Act]:
        """What the key's use says, over the body."""
        asked = _asked(call, SIGN)
        options = {name: value for name, value in asked.texts.items() if name in formats.ALL_OPTIONS}
        fresh = freshapi.wanted(asked.texts)
        texts = {name: body.text(options.get(name, ""), name) for name in ("context", "audience")}
        use = self._use(asked, call)
        form = asked.texts.get("format", use)

        async def act(decision: Decision) -> Response:
            key = self._find(asked, decision.namespace)
            if form != key.use:
                raise UsageError(
                    f"the key {key.name} is for {key.use}, and signs nothing else",
                    hint=f"make a key with use {form}",
                    code="usage.key-use",
                )
            if fresh:
                _require_bundles(key)
                return await self.fresh.signed(call, NamedHolder(self.keys, key), asked.texts, whose(key))
            return await formats.fulfil(self._order(call, key, asked.generation, options))

        return Wish("sign", asked.key, use, form, texts["context"], texts["audience"]), act

    async def attestation(self, call: Call) -> tuple[Wish, Act]:
        """A key's document for relying parties, with evidence in force."""
        asked = _asked(call, WHICH)

        async def act(decision: Decision) -> Response:
            key = await self.keys.current(self._find(asked, decision.namespace))
            return as_bytes(keydoc.build(key.attachments), keydoc.MEDIA_TYPE)

        return Wish("keys.list", key=asked.key), act

    def _order(self, call: Call, key: NamedKey, generation: int, options: dict[str, str]) -> Order:
        """``generation`` as it was asked for: 0 for the newest."""
        caller, keys = call.peer.caller, self.keys

        def signed(key: NamedKey, count: int) -> None:
            self.reports.signed(caller, key.attachments.key_sha256.hex(), count, key.use)

        def same(key: NamedKey) -> bool:
            return keys.finds(key, generation)

        return Order(call.request, caller.uid, key, options, keys.current, same, keys.now, signed, self.means)

    def _find(self, asked: Asked, namespace: str) -> NamedKey:
        return self.keys.find(asked.namespace or namespace, asked.name, asked.generation)

    def _use(self, asked: Asked, call: Call) -> str:
        """Of the key, for the policy; "" where there is none: whether there is one, only who may use it learns."""
        try:
            return self._find(asked, self.guard.namespace(call.peer.caller)).use
        except TeeAgentError:
            return ""

    def _told(self, kind: str, call: Call) -> Callable[[NamedKey], Awaitable[None]]:
        return partial(self.reports.key, kind, call.peer.caller)


def _require_bundles(key: NamedKey) -> None:
    if key.use != "bundle":
        raise UsageError(f"query: fresh means nothing to a key for {key.use}")


def _asked(call: Call, known: frozenset[str]) -> Asked:
    texts = body.query(call.request, known)
    number = texts.get("generation", "0")
    if not (number.isascii() and number.isdecimal()) or len(number) > 9:
        raise UsageError("generation: a number is required")
    return _named(call.name, texts.get("namespace", ""), int(number), texts)


def _named(name: str, namespace: str, generation: int, texts: dict[str, str]) -> Asked:
    if namespace and not NAMESPACE.fullmatch(namespace):
        raise UsageError("namespace: no namespace has such a name")
    return Asked(require_name(name), namespace, generation, texts)


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise FormatError(f"{what}: true or false", record="request")
    return value


def _seconds(value: Any, what: str, least: int) -> timedelta | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_SECONDS:
        raise FormatError(f"{what}: an integer from {least} to {MAX_SECONDS}, or null", record="request")
    return timedelta(seconds=value)
