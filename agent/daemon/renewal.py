"""Sees the TCB of all evidence that this signer gets; when it is another one, every key gets new evidence at once.

A host that updates its firmware, or hands the machine to another host, changes what evidence says. Keys attested
before would go on speaking for the old state until they come to their age: a day at the most. The agent's own key
comes first, named keys after it, each when it has its turn (agent.daemon.budget).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from agent.core.model import Evidence
from agent.daemon.around import Around, Ask
from agent.daemon.keys import Attested, KeyRing
from agent.daemon.named import NamedKeys
from agent.quoter import Quotes
from agent.verify.tcb import UNKNOWN, changed, tcb_of

PAUSE_SECONDS = 60.0
"""Between two renewals of all keys: a host that changes its mind with every quote gets no more than that."""

Seen = Callable[[bytes], None]


class Watched(Around):
    """Quotes that tell ``seen``, in the asking thread, the TCB of each piece of evidence."""

    def __init__(self, quotes: Quotes, seen: Seen) -> None:
        super().__init__(quotes)
        self._seen = seen

    def around(self, purpose: str, ask: Ask) -> Evidence:
        evidence = super().around(purpose, ask)
        self._seen(tcb_of(evidence.tee, evidence.blob))
        return evidence


class Renewal:
    """Compares, and has keys renewed. ``told`` hears of each change: the TCB before and after (agent.verify.tcb)."""

    def __init__(self, told: Callable[[bytes, bytes], None]) -> None:
        self._told = told
        self._newest = UNKNOWN
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()

    def seen(self, tcb: bytes) -> None:
        """From any thread: evidence with this TCB came."""
        if self._loop:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._compare, tcb)

    def _compare(self, tcb: bytes) -> None:
        before = self._newest
        if tcb != UNKNOWN:
            self._newest = tcb
        if changed(before, tcb):
            self._told(before, tcb)
            self._changed.set()

    async def run(self, ring: KeyRing, named: NamedKeys, pause: float = PAUSE_SECONDS) -> None:
        """Renew what is outdated, for ever."""
        self._loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            self._changed.clear()
            if ring.held and self._outdated(ring.held):
                ring.renew()
            named.renew(self._outdated)
            await asyncio.sleep(pause)

    def _outdated(self, key: Attested) -> bool:
        return changed(key.tcb, self._newest)
