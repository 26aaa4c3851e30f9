"""Named keys over quotes that need no hardware, with a calendar that only moves when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.core.binding import Scope
from agent.core.errors import (
    TeeAgentError,
)
from agent.daemon.keeper import Keeper
from agent.daemon.keys import Attester, Terms
from agent.daemon.named import Limits, NamedKey, NamedKeys
from tests.support.quotes import FakeQuotes, complete
from tests.support.waiting import until

BOOT = "6a1c1f0e-5b1d-4f57-9f5a-0e6d2f0c9b11"
BEGIN = datetime(2026, 3, 1, 12, 0, 0, 700_000, UTC)
HOUR = timedelta(hours=1)
ANY = Limits(100, 100)


class World:
    """Keys, the quotes behind them, and a calendar."""

    def __init__(self, limits: Limits = ANY, keeper: Keeper | None = None) -> None:
        self.quotes = FakeQuotes()
        self.at = BEGIN
        terms = Terms(Scope("rp", BOOT), 24 * HOUR, 30)
        attester = Attester(terms, self.quotes, complete, lambda: None, lambda: None, now=lambda: self.at)
        self.keeper = keeper
        self.keys = NamedKeys(attester, limits, keeper=keeper)
        self.logged: list[TeeAgentError] = []

    async def create(
        self, name: str = "a", namespace: str = "uid-1", algorithm: str = "Ed25519", lifetime: timedelta | None = None
    ) -> NamedKey:
        return await self.keys.create(namespace, name, algorithm, "bundle", lifetime)

    async def renew(self, true: Callable[[], bool]) -> None:
        """Let the background work go on until ``true``."""
        task = asyncio.create_task(self.keys.run(lambda _, error: self.logged.append(error)))
        await until(true)
        task.cancel()


def run(body: Callable[[World], Coroutine[Any, Any, None]], limits: Limits = ANY) -> None:
    async def main() -> None:
        await body(World(limits))

    asyncio.run(main())
