"""The socket's HTTP API, version 1 (docs/api.md): the agent's own endpoints, and the table of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from agent.core.access import Decision, Wish
from agent.core.bundle import Bundle, Payload
from agent.daemon import body, bulk, freshapi, payloads
from agent.daemon.attachapi import AttachmentApi
from agent.daemon.bulk import Press
from agent.daemon.dispatch import Act, Call, Dispatch, Handler, Routes, as_bytes, as_json
from agent.daemon.formats import BUNDLE_TYPE, BUNDLES, NOTHING, accepted
from agent.daemon.freshapi import FreshApi
from agent.daemon.holders import OwnHolder
from agent.daemon.journal import Reports
from agent.daemon.keyapi import KeyApi
from agent.daemon.keys import KeyRing
from agent.daemon.metrics import MetricsApi
from agent.daemon.openapi import Description
from agent.daemon.payloads import DIGEST_TYPE
from agent.daemon.report import Reporter
from agent.daemon.sealapi import SealApi
from agent.daemon.secretapi import SecretApi
from agent.daemon.verifyapi import VerifyApi
from agent.daemon.web import Response

__all__ = ["BUNDLE_TYPE", "DIGEST_TYPE", "ROUTES", "Api", "Dispatch", "Handler"]

ROUTES: Mapping[str, Mapping[str, str]] = {
    "/v1/sign": {"POST": "sign"},
    "/v1/challenge": {"POST": "challenge"},
    "/v1/status": {"GET": "status"},
    "/v1/keys": {"GET": "keys.list", "POST": "keys.create"},
    "/v1/keys/{name}": {"GET": "keys.list", "DELETE": "keys.destroy"},
    "/v1/keys/{name}/rotate": {"POST": "keys.rotate"},
    "/v1/keys/{name}/sign": {"POST": "sign"},
    "/v1/keys/{name}/attestation": {"GET": "keys.list"},
    "/v1/attachments/{digest}": {"GET": "keys.list"},
    "/v1/seal": {"POST": "seal"},
    "/v1/unseal": {"POST": "unseal"},
    "/v1/secrets": {"GET": "secret"},
    "/v1/secrets/{name}": {"POST": "secret"},
    "/v1/openapi.json": {"GET": "status"},
    "/v1/verify": {"POST": "verify"},
    "/metrics": {"GET": "metrics"},
}
"""All there is, with the access policy's operation for each; a test walks it."""
TEXTS = frozenset({"context", "audience"})
SIGN = TEXTS | freshapi.OPTIONS


@dataclass(frozen=True, slots=True)
class Api:
    """The endpoints over the agent's own key, and those of named keys."""

    ring: KeyRing
    fresh: FreshApi
    reporter: Reporter
    named: KeyApi
    reports: Reports
    description: Description
    sealing: SealApi
    secrets: SecretApi
    verifier: VerifyApi
    metrics: MetricsApi

    def routes(self) -> Routes:
        """ROUTES with their handlers."""
        named = self.named
        handlers: Mapping[str, Mapping[str, Handler]] = {
            "/v1/sign": {"POST": self.sign},
            "/v1/challenge": {"POST": self.fresh.challenge},
            "/v1/status": {"GET": self.status},
            "/v1/keys": {"GET": named.index, "POST": named.create},
            "/v1/keys/{name}": {"GET": named.show, "DELETE": named.destroy},
            "/v1/keys/{name}/rotate": {"POST": named.rotate},
            "/v1/keys/{name}/sign": {"POST": named.sign},
            "/v1/keys/{name}/attestation": {"GET": named.attestation},
            "/v1/attachments/{digest}": {"GET": AttachmentApi(named.means.kept).show},
            "/v1/seal": {"POST": self.sealing.seal},
            "/v1/unseal": {"POST": self.sealing.unseal},
            "/v1/secrets": {"GET": self.secrets.index},
            "/v1/secrets/{name}": {"POST": self.secrets.show},
            "/v1/openapi.json": {"GET": self.description.show},
            "/v1/verify": {"POST": self.verifier.verify},
            "/metrics": {"GET": self.metrics.show},
        }
        return {path: {method: handlers[path][method] for method in methods} for path, methods in ROUTES.items()}

    async def sign(self, call: Call) -> tuple[Wish, Act]:
        """A bundle over the body, or over a digest of it, by the current key; of a batch, one over each payload."""
        options = body.query(call.request, SIGN)
        fresh = freshapi.wanted(options)
        context, audience = (body.text(options.get(name, ""), name) for name in ("context", "audience"))

        async def act(_: Decision) -> Response:
            if fresh:
                return await self.fresh.signed(call, OwnHolder(self.ring), options)
            if call.request.content_type == bulk.TYPE:
                return await self._batch(call, context, audience)
            media_type = accepted(call.request, *BUNDLES)
            payload = await payloads.payload(call.request)
            key = await self.ring.current()
            draft = Bundle(NOTHING, context, audience, key.attachments)
            make = self.named.means.maker(draft, key.private.sign, media_type)
            signed = partial(self.reports.signed, call.peer.caller, key.attachments.key_sha256.hex())

            def again(data: bytes) -> bytes | None:
                if not self.ring.is_current(key):
                    return None
                made = make(Payload.of(data))
                signed()
                return made

            response = as_bytes(make(payload), media_type)
            signed()
            response.again = None if payloads.is_digest(call.request) else again
            return response

        return Wish("sign", use="bundle", format="bundle", context=context, audience=audience), act

    async def _batch(self, call: Call, context: str, audience: str) -> Response:
        media_type, caller = accepted(call.request, bulk.TYPE), call.peer.caller

        async def begin() -> Press[Payload]:
            key = await self.ring.current()
            draft = Bundle(NOTHING, context, audience, key.attachments)
            counted = partial(self.reports.signed, caller, key.attachments.key_sha256.hex())
            return self.named.means.bundles(draft, key.private.sign, counted)

        made = await self.named.means.bulk.answer(call.request, caller.uid, payloads.of_item, begin)
        return as_bytes(made, media_type)

    async def status(self, call: Call) -> tuple[Wish, Act]:
        """How the agent is."""
        body.query(call.request, frozenset())

        async def act(_: Decision) -> Response:
            return as_json(await self.reporter.status())

        return Wish("status"), act
