"""Persistent keys that are on the disk and can't be used: their names are taken, and who asks is told why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.core.errors import Conflict, ServerError, TeeAgentError


@dataclass(frozen=True, slots=True)
class Held:
    """Why a persistent key that is on the disk can't be used: ``locked``, which will pass, or ``broken``."""

    state: Literal["locked", "broken"]
    reason: str

    def error(self, name: str) -> TeeAgentError:
        """For who wants to use it."""
        if self.state == "locked":
            return ServerError(f"the key {name} is locked: {self.reason}", retry_after=5.0, code="server.locked")
        return Conflict(
            f"the key {name} is broken: {self.reason}",
            hint="nothing was deleted: put the folder of keys back from a backup, or destroy the key",
            code="conflict.broken",
        )
