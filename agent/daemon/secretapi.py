"""GET /v1/secrets and POST /v1/secrets/NAME: what the attestation service releases, for whom the policy names.

A secret is asked for each time, told to the audit log before it is given, and wiped afterwards. Nothing of it is kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.core.access import Decision, Wish
from agent.core.errors import Denied, TeeAgentError, UsageError
from agent.daemon import body
from agent.daemon.dispatch import Act, Call, as_bytes, as_json
from agent.daemon.guard import Guard
from agent.daemon.journal import Reports
from agent.daemon.released import Roots
from agent.daemon.sealapi import OCTETS
from agent.daemon.web import Response

NOT_TOLD = ("usage.secret", "server.budget")
"""Of what the caller asked for, and how often; the service was not asked."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SecretApi:
    """The two endpoints."""

    roots: Roots
    guard: Guard
    reports: Reports

    async def index(self, call: Call) -> tuple[Wish, Act]:
        """The names that this caller may have."""
        body.query(call.request, frozenset())

        async def act(_: Decision) -> Response:
            caller = call.peer.caller
            seen = [one for one in self.roots.names if self.guard.decide(caller, Wish("secret", secret=one)).allowed]
            return as_json({"secrets": [{"name": name} for name in seen]})

        return Wish("secret"), act

    async def show(self, call: Call) -> tuple[Wish, Act]:
        """A secret, as it is."""
        body.query(call.request, frozenset())
        async for _ in body.chunks(call.request, 0):
            pass
        if not _NAME.fullmatch(call.name):
            raise UsageError("no secret has such a name", code="usage.secret")

        async def act(_: Decision) -> Response:
            return as_bytes(await self._released(call), OCTETS)

        return Wish("secret", secret=call.name), act

    async def _released(self, call: Call) -> bytes:
        # What can't be told must not be done.
        self.reports.require_writable()
        caller, name = call.peer.caller, call.name
        try:
            found = await self.roots.secret(name, caller.uid)
        except TeeAgentError as error:
            if error.code not in NOT_TOLD:
                self.reports.failed(f"release of the secret {name}", error)
            raise
        with found.secret:
            if not call.peer.alive():
                raise Denied("the process that connected has exited", code="denied.peer")
            await self.reports.tell("secret.released", "notice", caller, secret=name, added_root=found.added_root)
            return bytes(found.secret.reveal())
