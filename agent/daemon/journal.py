"""What the signer tells about itself, whoever listens: the audit log (agent.daemon.audit), or nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from agent.core.errors import TeeAgentError
from agent.daemon.auditdraft import identity
from agent.daemon.heads import Sender
from agent.daemon.keys import Attested
from agent.daemon.keystore import NamedKey
from agent.daemon.peers import Caller
from agent.daemon.threads import in_thread_or_here

AT_ONCE = 8
"""Threads that tell it: what comes while the disk is busy is written together. The rest waits, in order."""
NEW = frozenset({"key.created", "key.rotated", "key.restored"})
"""Kinds of records about a named key that has evidence of its own."""


class Journal(Protocol):
    """Where key events and signatures are reported. ``event`` may be told anything but secrets."""

    def event(self, kind: str, *, severity: str, caller: Mapping[str, Any] | None = None, **fields: Any) -> None: ...

    def signed(self, caller: Caller, key_id: str, count: int = 1) -> None: ...

    def used(self, kind: str, caller: Caller, what: str, count: int = 1) -> None: ...

    def failed(self, what: str, error: TeeAgentError) -> None: ...

    def require_writable(self) -> None:
        """Raises ServerError (``server.audit``) where an event could not be kept."""


class Tally(Protocol):
    """Where signatures are counted for whoever watches: agent.daemon.metrics."""

    def on_signed(self, use: str, count: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Reports:
    """The same for those who report. ``journal`` is None where no audit log is kept: then nobody hears.

    ``heads`` sends the head in a new key's statement to the attestation service, where there is one; ``tally`` counts.
    """

    journal: Journal | None = None
    heads: Sender | None = None
    tally: Tally | None = None
    _telling: set[asyncio.Task[None]] = field(default_factory=set)
    _places: asyncio.Semaphore = field(default_factory=partial(asyncio.Semaphore, AT_ONCE))

    async def key(self, kind: str, caller: Caller | None, key: NamedKey, severity: str = "notice") -> None:
        """Something that happened to a named key, told by a thread of its own: a disk may be slow. Raises nothing."""
        if self.journal:
            who = identity(caller) if caller else None
            told = partial(self.journal.event, kind, severity=severity, caller=who, **_fields(key))
            await in_thread_or_here(told, self._places)
        if self.heads and kind in NEW:
            self.heads.named(key)

    async def tell(self, kind: str, severity: str, caller: Caller | None = None, **fields: Any) -> None:
        """The same of what is no key that could be used."""
        if self.journal:
            who = identity(caller) if caller else None
            told = partial(self.journal.event, kind, severity=severity, caller=who, **fields)
            await in_thread_or_here(told, self._places)

    def ended(self, key: NamedKey) -> None:
        """The same of one that came to its end, while the event loop goes on."""
        self._meanwhile(self.key("key.ended", None, key, "info"))

    def own(self, key: Attested) -> None:
        """The same of the agent's own key, which is new."""
        if self.journal:
            told = partial(self.journal.event, "key.attested", severity="info", **_attested(key))
            self._meanwhile(in_thread_or_here(told, self._places))
        if self.heads:
            self.heads.own(key)

    def tcb_changed(self, before: bytes, after: bytes) -> None:
        """Evidence speaks for another TCB than before: every key gets new evidence."""
        if self.journal:
            about = {"before": before.hex(), "after": after.hex()}
            told = partial(self.journal.event, "tcb.changed", severity="warning", caller=None, **about)
            self._meanwhile(in_thread_or_here(told, self._places))

    def policy(self, rules: int, error: TeeAgentError | None) -> None:
        """The access policy was read again: so many rules are in force, the old ones where there is an error."""
        if error is None:
            self._meanwhile(self.tell("policy.loaded", "notice", rules=rules))
        else:
            told = self.tell("policy.kept", "warning", rules=rules, code=error.code, message=error.message)
            self._meanwhile(told)

    def _meanwhile(self, telling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(telling)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def signed(self, caller: Caller, key_id: str, count: int = 1, use: str = "bundle") -> None:
        """So many signatures by a key for ``use``; they are counted."""
        if self.tally:
            self.tally.on_signed(use, count)
        if self.journal:
            self.journal.signed(caller, key_id, count)

    def used(self, kind: str, caller: Caller, root_id: str) -> None:
        """One use of the root of sealed data; they are counted."""
        if self.journal:
            self.journal.used(kind, caller, root_id)

    def failed(self, what: str, error: TeeAgentError) -> None:
        """Something that failed; repetitions are counted."""
        if self.journal:
            self.journal.failed(what, error)

    def opened(self, root_id: str, *, added_root: bool) -> None:
        """The root of sealed data is there."""
        self._meanwhile(self.tell("sealing.opened", "notice", root=root_id, added_root=added_root))

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
