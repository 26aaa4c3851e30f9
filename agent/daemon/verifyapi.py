"""POST /v1/verify: the verdict of `tee-agent verify --json`, for apps (docs/api.md).

The signer passes bytes on and back; agent.daemon.verifier reads them, and trusts the vendors' roots only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.core import canonical
from agent.core.access import Decision, Wish
from agent.core.errors import FormatError, ServerError, TeeAgentError
from agent.daemon import body, problem
from agent.daemon.dispatch import Act, Call, as_json, require_type
from agent.daemon.verifier import MAX_ANSWER, Verifier
from agent.daemon.web import Response
from agent.verify import question

REFUSED = 422
"""Status of a verdict that says no: no client takes it for a yes by looking at the status alone."""
_VALID, _INVALID, _ERROR = b"+", b"-", b"!"


def judged(data: bytes) -> bytes:
    """For agent.daemon.verifier: a mark and a JSON document, the verdict or the error. Raises nothing of ours."""
    try:
        valid, verdict = question.answer(data, datetime.now(UTC))
    except TeeAgentError as error:
        return _ERROR + json.dumps(problem.document(error)).encode()
    return (_VALID if valid else _INVALID) + json.dumps(verdict).encode()


@dataclass(frozen=True, slots=True)
class VerifyApi:
    """The endpoint."""

    verifier: Verifier

    def there(self) -> bool:
        """Whether there are verdicts."""
        return self.verifier.trouble is None

    def summary(self) -> dict[str, Any]:
        """For the status: ``trouble``, why there are no verdicts, or None."""
        trouble = self.verifier.trouble
        return {"trouble": problem.document(trouble) if trouble else None}

    async def verify(self, call: Call) -> tuple[Wish, Act]:
        """A verdict on a bundle, key document, JWS, COSE_Sign1 or EAT."""
        body.query(call.request, frozenset())
        require_type(call.request, "application/json")

        async def act(_: Decision) -> Response:
            async with self.verifier.place(call.peer.caller.uid):
                data = b"".join([chunk async for chunk in body.chunks(call.request, question.MAX_BYTES)])
                return _response(await self.verifier.ask(data))

        return Wish("verify"), act


def _response(answer: bytes) -> Response:
    """What comes from there may be anything: the question had it in its hands."""
    try:
        mark, document = answer[:1], canonical.parse(answer[1:], "verdict", MAX_ANSWER, floats=True)
    except FormatError as error:
        raise _no_verdict() from error
    if mark == _ERROR:
        raise problem.exception(document)
    if mark not in (_VALID, _INVALID):
        raise _no_verdict()
    return as_json(document, 200 if mark == _VALID else REFUSED)


def _no_verdict() -> ServerError:
    return ServerError("the verification ended without a verdict", hint="see the agent's log", code="server.verify")
