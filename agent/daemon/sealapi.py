"""POST /v1/seal and /v1/unseal (docs/sealing.md): data for this TEE, bound to the caller's namespace and a context."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from agent.core.access import Decision, Wish
from agent.core.errors import VerificationError
from agent.daemon import body
from agent.daemon.dispatch import Act, Call, as_bytes
from agent.daemon.journal import Reports
from agent.daemon.payloads import Memory
from agent.daemon.released import Roots
from agent.daemon.threads import in_thread
from agent.daemon.web import Response
from agent.sealing import DATA, MAX_BLOB, MAX_PLAINTEXT

SEALED_TYPE = "application/vnd.tee-agent.sealed+json"
OCTETS = "application/octet-stream"
CONTEXT = frozenset({"context"})
AT_ONCE = 16 * 1024
"""Bytes that are worked on where they are; more goes to a thread, so that others need not wait."""
THREADS = 4
"""At a time. What waits for one is bounded as its memory is: milliseconds of work."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SealApi:
    """The two endpoints. ``memory`` is for what they hold, beside what signing holds."""

    roots: Roots
    reports: Reports
    memory: Memory = field(default_factory=Memory)
    _places: asyncio.Semaphore = field(default_factory=partial(asyncio.Semaphore, THREADS))

    async def seal(self, call: Call) -> tuple[Wish, Act]:
        """The body, sealed."""
        context = _context(call)

        async def act(decision: Decision) -> Response:
            # First: without a root nothing is read.
            sealer = await self.roots.sealer()
            labels = (decision.namespace, context)
            async with self.memory.whole(call.request, call.peer.caller.uid, MAX_PLAINTEXT) as data:
                blob = await self._worked(len(data), lambda: sealer.seal(DATA, labels, data))
            self.reports.used("data.sealed", call.peer.caller, sealer.root_id)
            return as_bytes(blob, SEALED_TYPE)

        return Wish("seal", context=context), act

    async def unseal(self, call: Call) -> tuple[Wish, Act]:
        """What the body has sealed in it."""
        context = _context(call)

        async def act(decision: Decision) -> Response:
            sealer = await self.roots.sealer()
            labels, caller = (decision.namespace, context), call.peer.caller
            async with self.memory.whole(call.request, caller.uid, MAX_BLOB) as blob:
                try:
                    data = await self._worked(len(blob), lambda: sealer.unseal(DATA, labels, blob))
                except VerificationError:
                    self.reports.used("data.refused", caller, sealer.root_id)
                    raise
            self.reports.used("data.unsealed", caller, sealer.root_id)
            return as_bytes(bytes(data), OCTETS)

        return Wish("unseal", context=context), act

    async def _worked(self, size: int, work: Callable[[], T]) -> T:
        return work() if size <= AT_ONCE else await in_thread(work, self._places)


def _context(call: Call) -> str:
    return body.text(body.query(call.request, CONTEXT).get("context", ""), "context")
