"""The socket's HTTP API, version 1 (docs/api.md): what each request means, and the form of every answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp.web import BaseRequest, Response

from agent.core.bundle import Bundle, Payload
from agent.core.canonical import MAX_INTEGER, Reader
from agent.core.challenge import MAX_OBJECT, NONCE_MAX, NONCE_MIN
from agent.core.errors import Denied, FormatError, TeeAgentError, UsageError
from agent.daemon import body, problem
from agent.daemon.batch import Batcher, Challenge
from agent.daemon.keys import KeyRing
from agent.daemon.peers import Peer
from agent.daemon.report import Reporter, describe_key

BUNDLE_TYPE = "application/vnd.tee-agent.bundle+json"
DIGEST_TYPE = "application/vnd.tee-agent.digest+json"
"""A media type of its own: a payload that happens to be JSON is never taken for a digest."""
ROUTES = {"/v1/sign": "POST", "/v1/challenge": "POST", "/v1/status": "GET", "/v1/keys": "GET"}
"""All there is; a test walks it."""
TEXTS = frozenset({"context", "audience"})
NO_PAYLOAD = Payload.of(b"")

Handler = Callable[[BaseRequest, Peer], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Api:
    """The four endpoints over one key ring."""

    ring: KeyRing
    batcher: Batcher
    reporter: Reporter

    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """ROUTES with their handlers: each path's last word is its method's name here."""
        return {path: {method: getattr(self, path.rpartition("/")[2])} for path, method in ROUTES.items()}

    async def sign(self, request: BaseRequest, _: Peer) -> Response:
        """A bundle over the body, or over a digest of it, by the current key."""
        texts = {name: body.text(value, name) for name, value in body.query(request, TEXTS).items()}
        payload = await _payload(request)
        key = await self.ring.current()
        draft = Bundle(payload, texts.get("context", ""), texts.get("audience", ""), key.attachments)
        return _bundle(draft.signed(key.private.sign(draft.signing_input())).encode())

    async def challenge(self, request: BaseRequest, peer: Peer) -> Response:
        """A bundle with evidence made after the nonce came."""
        body.query(request, frozenset())
        _require_type(request, "application/json")
        defaults: dict[str, Any] = {"context": "", "audience": "", "claims": {}, "payload": None}
        fields = await body.document(request, frozenset({"nonce"}), defaults)
        wish = Challenge(
            fields.hexadecimal("nonce", NONCE_MIN, NONCE_MAX),
            NO_PAYLOAD if fields.item("payload") is None else _digest(fields.item("payload")),
            body.text(fields.text("context", 256), "context"),
            body.text(fields.text("audience", 256), "audience"),
            peer.caller.document(),
            _claims(fields.item("claims")),
        )
        return _bundle(await self.batcher.answer(wish, peer.caller.uid))

    async def status(self, request: BaseRequest, _: Peer) -> Response:
        """How the agent is."""
        body.query(request, frozenset())
        return _json(await self.reporter.status())

    async def keys(self, request: BaseRequest, _: Peer) -> Response:
        """The public keys in use and their statements."""
        body.query(request, frozenset())
        key = await self.ring.current()
        return _json({"keys": [describe_key(key)]})


class Dispatch:
    """Finds the handler, and gives every refusal the same form."""

    def __init__(self, routes: Mapping[str, Mapping[str, Handler]]) -> None:
        self._routes = routes

    async def answer(self, request: BaseRequest, peer: Peer, *, permitted: bool) -> Response:
        """Never raises a TeeAgentError. After a refusal of the peer itself the connection is closed."""
        try:
            if not permitted:
                raise Denied(
                    f"uid {peer.caller.uid} may not use this socket",
                    hint="root decides: [daemon] allow_users, allow_groups",
                )
            if not peer.alive():
                raise Denied("the process that connected has exited", code="denied.peer")
            return await self._handler(request)(request, peer)
        except TeeAgentError as error:
            response = refusal(error)
            if isinstance(error, Denied):
                response.force_close()
            return response

    def _handler(self, request: BaseRequest) -> Handler:
        methods = self._routes.get(request.path)
        if methods is None:
            raise UsageError("there is no such path", hint="see docs/api.md", code="usage.path")
        if request.method not in methods:
            raise UsageError("this path does not take this method", hint=", ".join(methods), code="usage.method")
        return methods[request.method]


def refusal(error: TeeAgentError) -> Response:
    """The problem document (RFC 9457) of an error."""
    response = _json(problem.problem(error), problem.status_of(error), problem.MEDIA_TYPE)
    if seconds := problem.retry_after(error):
        response.headers["Retry-After"] = str(seconds)
    if error.code == "usage.method":
        response.headers["Allow"] = error.hint
    return response


async def _payload(request: BaseRequest) -> Payload:
    if request.content_type != DIGEST_TYPE:
        return await body.payload(request)
    fields = await body.document(request, frozenset({"alg", "digest", "size"}), {})
    return _digest_fields(fields)


def _digest(document: Any) -> Payload:
    return _digest_fields(Reader(document, "payload", frozenset({"alg", "digest", "size"})))


def _digest_fields(fields: Reader) -> Payload:
    if fields.item("alg") != "sha-512":
        raise FormatError("alg is not sha-512", record="payload")
    return Payload(fields.hexadecimal("digest", 64), fields.integer("size", 0, MAX_INTEGER))


def _claims(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or len(json.dumps(value)) > MAX_OBJECT:
        raise FormatError(f"claims: an object of at most {MAX_OBJECT} bytes", record="request")
    return value


def _require_type(request: BaseRequest, media_type: str) -> None:
    if request.content_type != media_type:
        raise UsageError(f"Content-Type is not {media_type}", code="usage.type")


def _bundle(data: bytes) -> Response:
    return Response(body=data, content_type=BUNDLE_TYPE, headers=_HEADERS)


def _json(document: Mapping[str, Any], status: int = 200, media_type: str = "application/json") -> Response:
    data = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    return Response(body=data, status=status, content_type=media_type, headers=_HEADERS)


_HEADERS = {"Server": "tee-agent", "Cache-Control": "no-store"}
