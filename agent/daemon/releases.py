"""What the fetcher has released for the signer: wrapped secrets of configured policies, to the signer's own key.

The request names what is wanted, never a policy: which policy that is, the configuration says. What comes back is
encrypted to the signer's key and passed on as it is. A few at a time; whoever comes beyond is told to come later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from agent.core.canonical import Reader, shown
from agent.core.errors import ServerError, UsageError
from agent.core.exchange import Wrapped
from agent.core.ports import Deadline as AnyDeadline
from agent.daemon.peers import Caller
from agent.daemon.remote import MAX_KEY, wrapped_to
from agent.daemon.threads import in_thread
from agent.deadline import Deadline

AT_A_TIME = 4
"""Conversations with the service; the quoter makes one piece of evidence after the other all the same."""
MAX_WAITING = 16
MAX_NAME = 64

Fetch = Callable[[str, bytes, AnyDeadline], Wrapped]
"""Policy id, wrapping key: the wrapped secret. Raises as TasClient.fetch_wrapped."""


class Releases:
    """``wanted`` has the policy id of each thing that may be released; ``seconds`` are for one, waiting included."""

    def __init__(self, wanted: Mapping[str, str], fetch: Fetch, seconds: float) -> None:
        self._wanted = wanted
        self._fetch = fetch
        self._seconds = seconds
        self._places = asyncio.Semaphore(AT_A_TIME)
        self._under_way: set[asyncio.Task[Wrapped]] = set()
        self._closed = False

    async def release(self, params: dict[str, Any], _: Caller) -> dict[str, Any]:
        """An RPC: ``what`` and ``wrapping_key`` (PKCS#1 DER). Raises UsageError, ServerError, and as Fetch."""
        fields = Reader(params, "release", frozenset({"what", "wrapping_key"}))
        what, key = fields.text("what", MAX_NAME), fields.base64("wrapping_key", 1, MAX_KEY)
        if what not in self._wanted:
            raise UsageError(f"nothing called {shown(what)} is configured to be released", code="usage.secret")
        if self._closed or len(self._under_way) >= MAX_WAITING:
            raise ServerError("too many secrets are asked for at a time", retry_after=1.0, code="server.budget")
        deadline = Deadline(self._seconds, "secret from the attestation service")
        task = asyncio.create_task(self._released(self._wanted[what], key, deadline))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            return wrapped_to(await task)
        except asyncio.CancelledError:
            if not self._closed:
                raise
            raise ServerError("the daemon is being stopped", retry_after=1.0) from None

    async def _released(self, policy_id: str, key: bytes, deadline: Deadline) -> Wrapped:
        async with self._places:
            deadline.remaining()
            return await in_thread(lambda: self._fetch(policy_id, key, deadline))

    def close(self) -> None:
        """Who waits is told that it is over; a request under way ends by itself, with nobody to hear."""
        self._closed = True
        for task in self._under_way:
            task.cancel()
