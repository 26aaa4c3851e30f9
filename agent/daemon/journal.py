"""What the signer tells about itself, whoever listens: the audit log (agent.daemon.audit), or nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from agent.daemon.auditdraft import identity
from agent.daemon.keys import Attested
from agent.daemon.keystore import NamedKey
from agent.daemon.peers import Caller
from agent.daemon.threads import in_thread


class Journal(Protocol):
    """Where key events and signatures are reported. ``event`` may be told anything but secrets."""

    def event(self, kind: str, *, severity: str, caller: Mapping[str, Any] | None = None, **fields: Any) -> None: ...

    def signed(self, caller: Caller, key_id: str, count: int = 1) -> None: ...

    def require_writable(self) -> None:
        """Raises ServerError (``server.audit``) where an event could not be kept."""


@dataclass(frozen=True, slots=True)
class Reports:
    """The same for those who report. ``journal`` is None where no audit log is kept: then nobody hears."""

    journal: Journal | None = None
    _telling: set[asyncio.Task[None]] = field(default_factory=set)

    async def key(self, kind: str, caller: Caller | None, key: NamedKey, severity: str = "notice") -> None:
        """Something that happened to a named key, told by a thread of its own: a disk may be slow. Raises nothing."""
        if self.journal:
            who = identity(caller) if caller else None
            told = partial(self.journal.event, kind, severity=severity, caller=who, **_fields(key))
            await in_thread(told)

    def ended(self, key: NamedKey) -> None:
        """The same of one that came to its end, while the event loop goes on."""
        self._meanwhile(self.key("key.ended", None, key, "info"))

    def own(self, key: Attested) -> None:
        """The same of the agent's own key, which is new."""
        if self.journal:
            told = partial(self.journal.event, "key.attested", severity="info", **_attested(key))
            self._meanwhile(in_thread(told))

    def _meanwhile(self, telling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(telling)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def signed(self, caller: Caller, key_id: str, count: int = 1) -> None:
        """So many signatures; they are counted."""
        if self.journal:
            self.journal.signed(caller, key_id, count)

    def require_writable(self) -> None:
        """Raises ServerError (``server.audit``)."""
        if self.journal:
            self.journal.require_writable()


def _fields(key: NamedKey) -> dict[str, Any]:
    return {"key": f"{key.namespace}/{key.name}", "generation": key.generation, **_attested(key)}


def _attested(key: Attested) -> dict[str, Any]:
    """The digest of the statement is the one that the evidence binds: the record names both."""
    return {
        "key_id": key.attachments.key_sha256.hex(),
        "statement": key.statement.digest().hex(),
        "algorithm": key.statement.algorithm,
        "use": key.statement.use,
    }
