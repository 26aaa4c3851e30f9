"""A signer's life in tests: its persistent keys over a folder, with what it told, and a root that comes when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import (
    TeeAgentError,
)
from agent.daemon.journal import Reports
from agent.daemon.keeper import Keeper
from agent.daemon.keyfolder import KeyFolder, Sealer
from agent.daemon.named import Limits, NamedKey
from agent.daemon.peers import Caller
from tests.support.keyfolders import sealer
from tests.support.named import ANY, World
from tests.support.waiting import until


class Journal:
    """agent.daemon.journal.Journal that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, Any]]] = []

    def event(self, kind: str, *, severity: str, caller: Mapping[str, Any] | None = None, **fields: Any) -> None:
        self.heard.append((kind, severity, fields))

    def signed(self, caller: Caller, key_id: str, count: int = 1) -> None:
        raise AssertionError

    def used(self, kind: str, caller: Caller, what: str, count: int = 1) -> None:
        raise AssertionError

    def failed(self, what: str, error: TeeAgentError) -> None:
        raise AssertionError

    def require_writable(self) -> None:
        raise AssertionError

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for heard, _, fields in self.heard if heard == kind]


class Signer:
    """A process's life: keys over a folder. ``errors`` are what the root's source says first."""

    def __init__(self, path: Path, limits: Limits = ANY, root: Sealer | None = None) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        self.folder = KeyFolder(path)
        self.journal = Journal()
        self.root, self.errors = root or sealer(), list[TeeAgentError]()
        self.come = asyncio.Event()
        self.come.set()
        self.keeper = Keeper(self.folder, self._asked, Reports(self.journal))
        self.world = World(limits, self.keeper)
        self.keys = self.world.keys
        self.logged: list[TeeAgentError] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def _asked(self) -> Sealer:
        await self.come.wait()
        if self.errors:
            raise self.errors.pop(0)
        return self.root

    def start(self) -> None:
        self.tasks += [
            asyncio.create_task(self.keeper.run(lambda _, error: self.logged.append(error))),
            asyncio.create_task(self.keys.run(lambda _, error: self.logged.append(error))),
        ]

    async def opened(self) -> None:
        """Started, the root there, all keys restored that can be."""
        self.start()
        await self.true(lambda found: found["open"] and not found["locked"])

    async def true(self, what: Callable[[dict[str, Any]], bool]) -> None:
        await until(lambda: what(self.keeper.summary()))

    async def create(self, name: str = "a", lifetime: timedelta | None = None, namespace: str = "uid-1") -> NamedKey:
        return await self.keys.create(namespace, name, "Ed25519", "bundle", lifetime, persistent=True)

    async def followed(self) -> None:
        """Until the disk has what memory has."""
        self.keys.all()
        self.keeper.wake()
        await self.true(lambda found: found["unwritten"] == 0 and found["trouble"] is None)

    def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.folder.release()


def played(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


def code_of(error: pytest.ExceptionInfo[TeeAgentError]) -> str:
    return error.value.code
