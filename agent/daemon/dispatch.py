"""The one way of every request: a route, a wish, the policy's decision, the answer (docs/api.md).

A handler reads as much of a request as it takes to know what is wished, and gives that with the rest of its work. The
rest needs a decision, and only ``Dispatch`` asks for one: no handler can answer without.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol

from agent.core.access import Decision, Wish
from agent.core.errors import Denied, TeeAgentError, UsageError
from agent.daemon import problem
from agent.daemon.guard import OnDenied
from agent.daemon.peers import Caller, Peer
from agent.daemon.web import Again, Request, Response

_LOGGER = logging.getLogger("tee-agent.http")
HEADERS = {"Server": "tee-agent", "Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``name`` is the path's variable part, "" where it has none."""

    request: Request
    peer: Peer
    name: str = ""


Act = Callable[[Decision], Awaitable[Response]]
Handler = Callable[[Call], Awaitable[tuple[Wish, Act]]]
Routes = Mapping[str, Mapping[str, Handler]]
"""Handlers by path and method. A path may have one variable part, ``{name}``."""


class Policy(Protocol):
    """agent.daemon.guard.Guard."""

    on_denied: OnDenied

    def require(self, peer: Peer, wish: Wish) -> Decision: ...

    def decide(self, caller: Caller, wish: Wish) -> Decision: ...

    @property
    def rules(self) -> object:
        """The same object as long as the same rules are in force."""
        ...


class Tally(Protocol):
    """agent.daemon.metrics.Tally."""

    def on_answered(self, operation: str) -> None: ...

    def on_refused(self, error: TeeAgentError) -> None: ...


class Uncounted:
    """Nobody counts."""

    def on_answered(self, operation: str) -> None:
        """Forgotten."""

    def on_refused(self, error: TeeAgentError) -> None:
        """Likewise."""


class Dispatch:
    """Finds the handler, asks the policy, and gives every refusal the same form.

    ``operations`` names what a path and method are about, for the report of a caller who is not listened to;
    ``tally`` counts.
    """

    def __init__(
        self,
        routes: Routes,
        policy: Policy,
        operations: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        tally: Tally | None = None,
    ) -> None:
        self._policy = policy
        self._tally = tally or Uncounted()
        self._operations = operations
        self._routes = routes
        parts = ((path, *path.partition("{")) for path in routes)
        self._named = [(path, before, after.partition("}")[2]) for path, before, found, after in parts if found]
        self._path = lru_cache(maxsize=256)(self._match)

    async def answer(self, request: Request, peer: Peer, *, permitted: bool) -> Response:
        """Never raises a TeeAgentError. After a refusal of the peer itself the connection is closed."""
        try:
            if not permitted:
                self._report(request, peer)
                raise Denied(
                    f"uid {peer.caller.uid} may not use this socket",
                    hint="root decides: [daemon] allow_users, allow_groups, or rules in policy.d",
                )
            handler, name = self._find(request)
            wish, act = await handler(Call(request, peer, name))
            rules = self._policy.rules
            response = await act(self._policy.require(peer, wish))
            self._tally.on_answered(wish.operation)
            if response.again:
                response.again = self._guarded(response.again, peer, wish, rules)
            return response
        except TeeAgentError as error:
            self._tally.on_refused(error)
            response = refusal(error)
            if isinstance(error, Denied):
                response.close = True
            return response

    def _guarded(self, again: Again, peer: Peer, wish: Wish, rules: object) -> Again:
        """``again`` for as long as the decision stands: the same wish, rules and process."""

        def guarded(body: bytes) -> bytes | None:
            if self._policy.rules is not rules or not peer.alive():
                return None
            try:
                made = again(body)
            except TeeAgentError:
                return None
            except Exception:
                # No task of the connection's hears of it here, and others' turns come after this one.
                _LOGGER.exception("a request like the one before it failed")
                return None
            if made is not None:
                self._tally.on_answered(wish.operation)
            return made

        return guarded

    def _report(self, request: Request, peer: Peer) -> None:
        """What was asked is not read, but told: a path that there is none of counts as a look at the status."""
        path, _ = self._path(request.path)
        wish = Wish(self._operations.get(path, {}).get(request.method, "status"))
        self._policy.on_denied(peer.caller, wish, self._policy.decide(peer.caller, wish))

    def _find(self, request: Request) -> tuple[Handler, str]:
        path, name = self._path(request.path)
        methods = self._routes.get(path)
        if methods is None:
            raise UsageError("there is no such path", hint="see docs/api.md", code="usage.path")
        if request.method not in methods:
            raise UsageError("this path does not take this method", hint=", ".join(methods), code="usage.method")
        return methods[request.method], name

    def _match(self, path: str) -> tuple[str, str]:
        """The path as the table has it, and its variable part."""
        if path in self._routes:
            return path, ""
        for known, before, after in self._named:
            name = path[len(before) : len(path) - len(after)]
            if path.startswith(before) and path.endswith(after) and name and "/" not in name:
                return known, name
        return "", ""


def refusal(error: TeeAgentError) -> Response:
    """The problem document (RFC 9457) of an error."""
    response = as_json(problem.problem(error), problem.status_of(error), problem.MEDIA_TYPE)
    if seconds := problem.retry_after(error):
        response.headers["Retry-After"] = str(seconds)
    if error.code == "usage.method":
        response.headers["Allow"] = error.hint
    return response


def as_json(document: Mapping[str, Any], status: int = 200, media_type: str = "application/json") -> Response:
    """A document in our answers' form."""
    data = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    return Response(data, status=status, content_type=media_type, headers=HEADERS)


def as_bytes(data: bytes, media_type: str, **headers: str) -> Response:
    """``data`` as it is."""
    return Response(data, content_type=media_type, headers={**HEADERS, **headers})


def require_type(request: Request, media_type: str) -> None:
    """Raises UsageError (``usage.type``)."""
    if request.content_type != media_type:
        raise UsageError(f"Content-Type is not {media_type}", code="usage.type")
