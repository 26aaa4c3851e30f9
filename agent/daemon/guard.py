"""Asks the access policy for one peer at a time, and reads it again when told to.

A policy that is broken at start is an error (exit 78). Broken at a reload, the old one stays in force, and journal
and status say so. Decisions are remembered until the next reload: the same caller asks the same thing again.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import lru_cache

from agent.core.access import Decision, Rules, Who, Wish
from agent.core.errors import ConfigError, Denied
from agent.daemon.peers import Caller, Peer
from agent.daemon.role import Life

OnDenied = Callable[[Caller, Wish, Decision], None]
OnReload = Callable[[int, ConfigError | None], None]
"""How many rules are in force, and why they are still the old ones, or None."""
MAX_REMEMBERED = 1024
"""Decisions; contexts and audiences are the callers' to choose, so they can't be kept without end."""


@lru_cache(maxsize=1024)
def who_of(caller: Caller) -> Who:
    """What rules look at: no pid."""
    return Who(
        caller.uid, caller.gid, frozenset(caller.groups), caller.unit, caller.container, not caller.groups_unknown
    )


def _ignore(caller: Caller, wish: Wish, decision: Decision) -> None:
    """Nobody wants to hear of denials."""


def _unheard(rules: int, error: ConfigError | None) -> None:
    """Nor of reloads."""


class Guard:
    """The policy in force. ``load`` reads it and raises ConfigError; ``on_denied`` is told of every refusal."""

    def __init__(self, load: Callable[[], Rules], on_denied: OnDenied = _ignore) -> None:
        self._load = load
        self.rules = load()
        self._trouble: ConfigError | None = None
        self._decided: dict[tuple[Who, Wish], Decision] = {}
        self.on_denied = on_denied
        self.on_reload: OnReload = _unheard

    def require(self, peer: Peer, wish: Wish) -> Decision:
        """The decision that allows it. Raises Denied: the peer has exited, or the policy says no."""
        if not peer.alive():
            raise Denied("the process that connected has exited", code="denied.peer")
        decision = self.decide(peer.caller, wish)
        if not decision.allowed:
            self.on_denied(peer.caller, wish, decision)
            raise refusal(peer.caller, wish, decision)
        return decision

    def decide(self, caller: Caller, wish: Wish) -> Decision:
        """Without telling anybody: for lists of which a caller sees a part. Never raises."""
        asked = who_of(caller), wish
        found = self._decided.get(asked)
        if found is None:
            if len(self._decided) >= MAX_REMEMBERED:
                self._decided.clear()
            found = self._decided[asked] = self.rules.decide(*asked)
        return found

    def permits(self, caller: Caller) -> bool:
        """True when there may be something that the caller is allowed: the connection is listened to."""
        return self.rules.admits(who_of(caller))

    def namespace(self, caller: Caller) -> str:
        """Where the caller's own keys are."""
        return self.rules.namespace(who_of(caller))

    def reload(self) -> None:
        """Read the policy again. Raises ConfigError, and then the old one stays in force."""
        try:
            self.rules = self._load()
        except ConfigError as error:
            self._trouble = error
            raise
        self._trouble = None
        self._decided.clear()

    @property
    def notes(self) -> tuple[str, ...]:
        """What an admin should mend, for the status."""
        if self._trouble is None:
            return self.rules.notes
        return (f"access policy: the old rules stay in force: {self._trouble.message}", *self.rules.notes)

    def install(self, life: Life) -> None:
        """Inside the running loop: SIGHUP reloads, and the journal has what came of it."""
        for note in self.notes:
            life.log(note)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._told, life)

    def _told(self, life: Life) -> None:
        try:
            self.reload()
        except ConfigError as error:
            life.log_error("access policy: the old rules stay in force", error)
            self.on_reload(len(self.rules.rules), error)
            return
        self.on_reload(len(self.rules.rules), None)
        life.log(f"access policy: {len(self.rules.rules)} rules in force")
        for note in self.notes:
            life.log(note)


def refusal(caller: Caller, wish: Wish, decision: Decision) -> Denied:
    """What a denied caller reads: which rule, and what to do."""
    what = f"{wish.operation} with {wish.key}" if wish.key else wish.operation
    return Denied(
        f"{what} is refused to {who_of(caller)}: {decision.reason}",
        hint=f"root decides, in policy.d; tee-agent policy explain --pid PID {wish.operation}",
        code="denied.policy",
    )
