"""HTTP: routes, bounds and the wire's own error texts (TAS-PROTOCOL, section 1). No decision is made here."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from agent import __version__
from agent.core import headpost, keydoc
from agent.core.errors import ServerError, TeeAgentError
from tas.connections import Connections
from tas.heads import HeadKeeper
from tas.limits import RateLimiter
from tas.log import Log
from tas.request import Refused
from tas.service import Service, printable

MAX_BODY = 2 << 20
"""Bytes (MAX_CONTENT_LENGTH of the protocol)."""

_request_id: ContextVar[str] = ContextVar("request_id")
"""Of the request that this task handles: in its answer's X-Request-Id and in each of its log lines."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_TEXTS = {
    404: "The requested URL was not found on the server.",
    405: "The method is not allowed for the requested URL.",
    413: "The data value transmitted exceeds the capacity limit.",
}
_NOT_JSON = "Did not attempt to load JSON data because the request Content-Type was not 'application/json'."
_BAD_JSON = "The browser (or proxy) sent a request that this server could not understand."


@dataclass(frozen=True, slots=True)
class Workers:
    """One thread each, since verifying keeps the interpreter: a boot waits for no key document and for no disk."""

    secrets: Executor
    heads: Executor


class Web:
    """The application. ``per_minute`` requests per client and route (0: any), ``read_seconds`` to read a request in."""

    def __init__(
        self, service: Service, heads: HeadKeeper, workers: Workers, log: Log, *, per_minute: int, read_seconds: float
    ) -> None:
        self.connections = Connections(read_seconds)
        self._service = service
        self._heads = heads
        self._limiter = RateLimiter(per_minute)
        self._workers = workers
        self._log = log
        self._read_seconds = read_seconds

    def application(self) -> web.Application:
        # One more than allowed, since aiohttp refuses a body that has exactly client_max_size bytes.
        app = web.Application(middlewares=[self._envelope], client_max_size=MAX_BODY + 1)
        app.router.add_get("/version", self._version, allow_head=False)
        app.router.add_get("/kb/v0/get_nonce", self._nonce, allow_head=False)
        app.router.add_get("/alphav1/nonce", self._nonce, allow_head=False)
        app.router.add_post("/kb/v0/get_secret", self._secret)
        app.router.add_post(headpost.PATH, self._head)
        return app

    async def _version(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        return reply({"version": __version__})

    async def _nonce(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        return reply({"nonce": self._service.nonce()})

    async def _secret(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        body = parse_json(request.content_type, await self._read(request))
        if not body:
            raise Refused(400, "Request body is required", code="denied.body")
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(
            self._workers.secrets, self._service.get_secret, body, _request_id.get(), request.remote or ""
        )
        return reply(answer.body, answer.status)

    async def _head(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        if request.content_type != keydoc.MEDIA_TYPE:
            raise Refused(415, f"The body is a key document: {keydoc.MEDIA_TYPE}", code="denied.content-type")
        body, loop = await self._read(request), asyncio.get_running_loop()
        told = (body, self._service.material, _request_id.get(), request.remote or "")
        answer = await loop.run_in_executor(self._workers.heads, self._heads.keep, *told)
        return reply(answer.body, answer.status)

    def _authenticate(self, request: web.Request) -> None:
        # On bytes: a header that is not ASCII is a wrong key, not an error. The key is an identifier (I7).
        given = request.headers.get("X-API-KEY", "").strip().encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._service.material.api_key):
            raise Refused(401, "Unauthorized", code="denied.api-key")

    async def _read(self, request: web.Request) -> bytes:
        if (request.content_length or 0) > MAX_BODY:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY, request.content_length or 0)
        try:
            async with asyncio.timeout(self._read_seconds):
                return await request.read()
        except TimeoutError as exc:
            raise Refused(408, "The request did not arrive in time", code="denied.slow") from exc

    @web.middleware
    async def _envelope(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Around every request: its id, the rate limit, and errors as the wire has them."""
        more = self.connections.arrived(request)
        request_id = secrets.token_hex(8)
        _request_id.set(request_id)
        route = request.match_info.route.resource
        standing = self._limiter.hit(request.remote or "", route.canonical if route else "", time.time())
        if standing.allowed:
            response = await self._guarded(request, handler)
        else:
            message = f"{standing.limit} per 1 minute"
            response = reply({"error": "rate_limit_exceeded", "message": message}, 429)
            self._refused(request, 429, "denied.rate-limit")
        response.headers.update({**standing.headers(), "X-Request-Id": request_id, "Server": "tas"})
        if not more or response.status in (408, 413):
            response.force_close()
        return response

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refusal:
            self._refused(request, refusal.status, refusal.code)
            return error(refusal.status, refusal.text)
        except web.HTTPException as exc:
            self._refused(request, exc.status, "denied.http")
            return error(exc.status, _TEXTS.get(exc.status, exc.reason), headers=_allow(exc))
        except ServerError as exc:
            self._log.event("unavailable", request=_request_id.get(), code=exc.code, reason=exc.message)
            retry = {"Retry-After": str(max(1, int(exc.retry_after)))}
            return error(503, "The service is temporarily unable to answer", headers=retry)
        except ConnectionError:
            # The client left while its body was being read.
            return error(400, _BAD_JSON)
        except TeeAgentError as exc:
            self._log.event("error", request=_request_id.get(), code=exc.code, reason=printable(exc.message))
            return error(500, "Internal server error")
        except Exception as exc:
            return self._bug(exc)

    def _bug(self, exc: Exception) -> web.Response:
        # Type and place only: the text of a foreign exception may quote what it choked on.
        frame = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        self._log.event("error", request=_request_id.get(), type=type(exc).__name__, where=where)
        return error(500, "Internal server error")

    def _refused(self, request: web.Request, status: int, code: str) -> None:
        self._log.event("refused", request=_request_id.get(), client=request.remote, status=status, code=code)


def parse_json(content_type: str, data: bytes) -> dict[str, Any]:
    """The body as an object. Raises Refused 415 for another type, 400 for anything that is no JSON object."""
    if content_type != "application/json":
        raise Refused(415, _NOT_JSON, code="denied.content-type")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise Refused(400, _BAD_JSON, code="denied.json") from exc
    if not isinstance(body, dict):
        raise Refused(400, _BAD_JSON, code="denied.json")
    return body


def reply(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Compact JSON."""
    text = json.dumps(body, separators=(",", ":"))
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")


def error(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    """The wire's only error shape."""
    return reply({"error": text}, status, headers)


def _allow(exc: web.HTTPException) -> dict[str, str]:
    return {"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else {}
