"""Whose key answers a challenge: agent.daemon.asked.Holder for the agent's own key and for named ones."""

from __future__ import annotations

from dataclasses import dataclass

from agent.daemon.keys import AttestedKey, KeyRing
from agent.daemon.named import NamedKey, NamedKeys


@dataclass(frozen=True, slots=True)
class OwnHolder:
    """The agent's own: one that was replaced meanwhile may still answer."""

    ring: KeyRing

    async def current(self) -> AttestedKey:
        return await self.ring.current()

    def require(self) -> None:
        """Nobody destroys it."""


@dataclass(frozen=True, slots=True)
class NamedHolder:
    """One generation of a named key."""

    keys: NamedKeys
    key: NamedKey

    async def current(self) -> NamedKey:
        return await self.keys.current(self.key)

    def require(self) -> None:
        self.keys.require(self.key)
