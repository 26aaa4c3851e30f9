"""What the signer tells about itself, whoever listens: the audit log (agent.daemon.audit), or nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent.daemon.peers import Caller


class Journal(Protocol):
    """Where key events and signatures are reported. ``event`` may be told anything but secrets."""

    def event(self, kind: str, *, severity: str, caller: Mapping[str, Any] | None = None, **fields: Any) -> None: ...

    def signed(self, caller: Caller, key_id: str) -> None: ...

    def require_writable(self) -> None:
        """Raises ServerError (``server.audit``) where an event could not be kept."""


@dataclass(frozen=True, slots=True)
class Reports:
    """The same for those who report. ``journal`` is None where no audit log is kept: then nobody hears."""

    journal: Journal | None = None

    def event(self, kind: str, caller: Caller, **fields: Any) -> None:
        """Something that happened to a key. Raises nothing: ``require_writable`` came before."""
        if self.journal:
            self.journal.event(kind, severity="info", caller=caller.document(), **fields)

    def signed(self, caller: Caller, key_id: str) -> None:
        """One signature; they are counted."""
        if self.journal:
            self.journal.signed(caller, key_id)

    def require_writable(self) -> None:
        """Raises ServerError (``server.audit``)."""
        if self.journal:
            self.journal.require_writable()
