"""The named keys that exist: which names, which generations of them, until when. Knows no quotes, tasks and files.

A key is a name with one generation, or several while a rotation overlaps: the newest signs unless an older one is
asked for by its number. What ended by its own lifetime, or by the end of its overlap, is forgotten: its private key
leaves memory with it. Names of persistent keys that can't be used yet, or at all, are taken (``held``).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from agent.core.algorithm import SECP256K1, Algorithm
from agent.core.errors import Conflict, UsageError
from agent.core.statement import MEMORY, now_in_seconds
from agent.daemon.held import Held
from agent.daemon.keys import RENEW_AT, Attested
from agent.daemon.privatekey import PrivateKey

USES = ("bundle", "raw", "jws", "cose", "eat", "ssh")
"""What a caller may make keys for."""
MAX_GENERATIONS = 4
"""Of one key that can be asked for at a time."""
MAX_LIFETIME = 366 * 86_400
"""Seconds of a generation's life, and of an overlap, at the most."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
"""What rules may call one (agent.core.accessparse)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Generations that may exist: over all namespaces, and in one."""

    total: int
    each: int


@dataclass(frozen=True)
class NamedKey(Attested):
    """One generation as it is now; ``newest`` signs by default. ``ends`` is None if only boot or destroying ends it."""

    namespace: str
    name: str
    generation: int
    created: datetime
    ends: datetime | None
    newest: bool
    private: PrivateKey

    @property
    def algorithm(self) -> Algorithm:
        return self.private.algorithm

    @property
    def use(self) -> str:
        return self.statement.use

    def sign(self, data: bytes) -> bytes:
        """The signature over ``data`` in its fixed form (agent.core.algorithm)."""
        return self.private.sign(data)


@dataclass(eq=False)
class Generation:
    """What changes of a generation: its evidence, and its end once it is an older one."""

    number: int
    private: PrivateKey
    created: datetime
    ends: datetime | None
    attested: Attested
    renewal: asyncio.Task[None] | None = None
    shown: NamedKey | None = None
    """As it was shown last."""

    def over(self, at: datetime) -> bool:
        return self.ends is not None and at >= self.ends

    def due(self) -> datetime:
        """When the next thing happens to it: its end, or the renewal of its evidence."""
        made = self.attested.statement
        if self.ends and made.expires >= self.ends:
            return self.ends
        return made.created + (made.expires - made.created) * RENEW_AT


@dataclass(eq=False)
class Entry:
    """A name in a namespace. ``lifetime`` is that of each generation, ``storage`` what its statement says."""

    namespace: str
    name: str
    use: str
    lifetime: timedelta | None
    storage: str = MEMORY
    generations: list[Generation] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    @property
    def persistent(self) -> bool:
        return self.storage != MEMORY

    def shown(self, one: Generation) -> NamedKey:
        made, newest, last = one.attested, one is self.generations[-1], one.shown
        if last and last.attachments is made.attachments and last.newest is newest and last.ends is one.ends:
            return last
        fixed = (self.namespace, self.name, one.number, one.created, one.ends, newest, one.private)
        one.shown = NamedKey(made.attachments, made.evidence_at, made.provider, *fixed)
        return one.shown


class Store:
    """All entries. ``now`` is the calendar's time: what ended is gone before anything is looked for.

    ``ended`` is told of each generation whose time is over, not of those that are removed.
    """

    def __init__(self, limits: Limits, now: Callable[[], datetime], ended: Callable[[NamedKey], None]) -> None:
        self._limits = limits
        self.now = now
        self._ended = ended
        self.on_dropped: Callable[[], None] = lambda: None
        """Told when a generation is here no more: who remembers private keys should forget them."""
        self._entries: dict[tuple[str, str], Entry] = {}
        self.held: dict[tuple[str, str], Held] = {}
        self._soonest: datetime | None = None
        """When the next generation ends: until then nothing is looked through."""
        self.stale: set[tuple[str, str]] = set()
        """Persistent keys of which something ended that their file still has."""

    def all(self) -> Iterator[tuple[Entry, Generation]]:
        """Each generation, newest last."""
        self._forget()
        return ((entry, one) for entry in tuple(self._entries.values()) for one in tuple(entry.generations))

    def shown(self) -> tuple[NamedKey, ...]:
        """The same as they are now, by namespace, name and number."""
        found = (entry.shown(one) for entry, one in self.all())
        return tuple(sorted(found, key=lambda key: (key.namespace, key.name, key.generation)))

    def get(self, namespace: str, name: str) -> Entry | None:
        """None where there is none that could be used."""
        self._forget()
        return self._entries.get((namespace, name))

    def entry(self, namespace: str, name: str) -> Entry:
        """Raises UsageError (``usage.key``), ServerError (``server.locked``), Conflict (``conflict.broken``)."""
        entry = self.get(namespace, name)
        if entry is None:
            held = self.held.get((namespace, name))
            raise held.error(name) if held else no_key(f"there is no key {name!a}")
        return entry

    def find(self, namespace: str, name: str, generation: int) -> NamedKey:
        """The newest generation for 0, else that of this number. Raises as entry."""
        entry = self.entry(namespace, name)
        for one in reversed(entry.generations):
            if generation in (0, one.number):
                return entry.shown(one)
        raise no_key(f"{name} has no generation {generation}")

    def same(self, key: NamedKey) -> tuple[Entry, Generation]:
        """Where this private key is now. Raises as entry, and where it has gone."""
        entry = self.entry(key.namespace, key.name)
        for one in entry.generations:
            if one.private is key.private:
                return entry, one
        raise no_key(f"the key {key.name} was destroyed meanwhile")

    def holds(self, one: Generation) -> bool:
        """False once it ended or was destroyed."""
        return any(one is held for _, held in self.all())

    def require_free(self, namespace: str, name: str) -> None:
        """Raises Conflict (``conflict.key``) when the name is taken."""
        self._forget()
        key = namespace, name
        if key in self._entries or key in self.held:
            raise Conflict(f"there is a key {name} already", hint="rotate or destroy it", code="conflict.key")
        if key in self.stale:
            raise Conflict(f"{name} has ended, and leaves the disk", hint="ask again", code="conflict.key")

    def require_place(self, namespace: str, making: list[str]) -> None:
        """Raises Conflict (``conflict.limit``). ``making`` are the namespaces of keys under way."""
        spaces = [entry.namespace for entry, _ in self.all()] + making + [namespace for namespace, _ in self.held]
        mine = spaces.count(namespace) >= self._limits.each
        if mine or len(spaces) >= self._limits.total:
            raise Conflict(
                f"there are as many keys as may be{'' if mine else ', over all callers'}",
                hint="destroy some; root decides: [daemon] keys_max, keys_each_max",
                code="conflict.limit",
            )

    def require_still(self, entry: Entry) -> None:
        """Raises UsageError (``usage.key``) when the entry was destroyed meanwhile."""
        if self._entries.get(entry.key) is not entry:
            raise no_key(f"the key {entry.name} was destroyed meanwhile")

    def until(self, entry: Entry, overlap: timedelta | None) -> datetime | None:
        """When the newest generation ends if it overlaps with the next for so long, from now on; None for a new entry.

        Raises UsageError (``usage.key``) when the entry was destroyed meanwhile.
        """
        if overlap is None:
            return None
        self.require_still(entry)
        # Whole seconds, as a statement has them: the end is in the next one of its own.
        until, ends = now_in_seconds(self.now() + overlap), entry.generations[-1].ends
        return min(until, ends) if ends else until

    def add(self, entry: Entry, one: Generation, until: datetime | None) -> NamedKey:
        """A new entry's first generation, or the next: then the one before ends ``until`` then."""
        if until is not None and entry.generations:  # they may have ended meanwhile
            entry.generations[-1].ends = until
        self._entries[entry.key] = entry
        entry.generations.append(one)
        self._plan()
        return entry.shown(one)

    def install(self, entry: Entry) -> tuple[NamedKey, ...]:
        """An entry with all its generations, if it has any, in place of what was ``held``."""
        self.held.pop(entry.key, None)
        if entry.generations:
            self._entries[entry.key] = entry
        self._plan()
        return tuple(entry.shown(one) for one in entry.generations)

    def remove(self, entry: Entry) -> None:
        """All generations. Raises UsageError (``usage.key``)."""
        self.require_still(entry)
        del self._entries[entry.key]
        self.on_dropped()

    def _forget(self) -> None:
        at = self.now()
        if self._soonest is None or at < self._soonest:
            return
        for key, entry in tuple(self._entries.items()):
            over = [entry.shown(one) for one in entry.generations if one.over(at)]
            if not over:
                continue
            entry.generations = [one for one in entry.generations if not one.over(at)]
            if not entry.generations:
                del self._entries[key]
            if entry.persistent:
                self.stale.add(key)
            for gone in over:
                self._ended(gone)
            self.on_dropped()
        self._plan()

    def _plan(self) -> None:
        ends = (one.ends for entry in self._entries.values() for one in entry.generations)
        self._soonest = min((end for end in ends if end), default=None)


def require_name(name: str) -> str:
    """``name``, if a key may have it. Raises UsageError."""
    if not NAME.fullmatch(name):
        raise UsageError("a key's name is a-z, 0-9, dot, dash or underscore, at most 63, a letter or digit first")
    return name


def require_use(use: str, algorithm: str) -> str:
    """``use``, if a key of this algorithm may have it. Raises UsageError."""
    if use not in USES:
        raise UsageError(f"use is not one of {', '.join(USES)}")
    if use == "ssh" and algorithm == SECP256K1:
        raise UsageError(f"ssh knows no {algorithm} keys")
    return use


def no_key(message: str) -> UsageError:
    return UsageError(message, hint="GET /v1/keys lists those that there are", code="usage.key")
