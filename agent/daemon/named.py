"""Named keys: made for a caller's namespace, for one use, living in this process's memory.

They end with the process, or are persistent: then agent.daemon.keeper has each on the disk before anybody hears of it.
Each has a statement and evidence. Both are renewed for the same private key before the statement ends, and at once
where the calendar ran on while the machine slept. agent.daemon.keystore has the names, agent.daemon.budget the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial

from agent.core import algorithm as algorithms
from agent.core.algorithm import Algorithm
from agent.core.errors import Conflict, TeeAgentError, UsageError
from agent.core.statement import MEMORY, now_in_seconds
from agent.daemon.budget import Turn
from agent.daemon.held import Held
from agent.daemon.keeper import Keeper, require_keeper
from agent.daemon.keys import RETRY_MAX, RETRY_SECONDS, Attested, Attester, Log, Wanted
from agent.daemon.keystore import (
    MAX_GENERATIONS,
    USES,
    Entry,
    Generation,
    Limits,
    NamedKey,
    Store,
    require_name,
    require_use,
)
from agent.daemon.privatekey import PrivateKey
from agent.daemon.tasks import Tasks, within
from agent.daemon.threads import in_thread

__all__ = ["USES", "Limits", "NamedKey", "NamedKeys"]
WAIT_SECONDS = 60.0
"""For a key's turn and its evidence."""
LEAST_LIFETIME = timedelta(seconds=10)

Made = Callable[[NamedKey], Awaitable[None]]
Gone = Callable[[NamedKey | None], Awaitable[None]]


class NamedKeys:
    """All named keys of this process; used from the event loop's thread only.

    ``ended`` is told of each generation whose time is over. ``trouble`` is why evidence was not renewed, or None.
    Raises Conflict when another process has the persistent keys.
    """

    def __init__(
        self,
        attester: Attester,
        limits: Limits,
        ended: Callable[[NamedKey], None] = lambda _: None,
        keeper: Keeper | None = None,
    ) -> None:
        self._attester = attester
        self._store = Store(limits, attester.now, ended)
        self._keeper = keeper
        self._busy: set[tuple[str, str]] = set()
        self._budget = attester.budget
        self._changed = asyncio.Event()
        self._tasks = Tasks()
        self._outdated: dict[int, Attested] = {}
        self.trouble: TeeAgentError | None = None
        if keeper:
            keeper.begin(self._store, self._restored)

    def on_dropped(self, told: Callable[[], None]) -> None:
        """``told`` is called when a private key is here no more: who remembers it should forget it."""
        self._store.on_dropped = told

    def now(self) -> datetime:
        """The calendar's time, as keys count it."""
        return self._attester.now()

    @property
    def count(self) -> int:
        """Generations that exist."""
        return sum(1 for _ in self._store.all())

    @property
    def held(self) -> Mapping[tuple[str, str], Held]:
        """Persistent keys that can't be used, by namespace and name."""
        return self._store.held

    @property
    def waiting(self) -> int:
        """Keys that wait for evidence."""
        return self._budget.keys

    async def create(
        self,
        namespace: str,
        name: str,
        algorithm: str,
        use: str,
        lifetime: timedelta | None = None,
        *,
        persistent: bool = False,
        made: Made | None = None,
        payer: str = "",
    ) -> NamedKey:
        """A new key with evidence. ``lifetime`` is that of each generation; None: as long as this process.

        ``payer`` says whose share of the quotes it takes (agent.daemon.budget); default: the namespace's.
        ``made`` is told of it as soon as it exists, even if nobody waits for it any more.
        Raises UsageError, FormatError (algorithm), Conflict (``conflict.key``: the name is taken; ``conflict.limit``),
        ServerError (``server.budget``), DeadlineExceeded, and what keeps evidence from being made: then there is none.
        For a persistent key ConfigError (``config.sealing``), ServerError (``server.locked``, ``server.storage``).
        """
        kind = algorithms.find(algorithm)
        require_name(name), require_use(use, algorithm)
        if lifetime is not None and lifetime < LEAST_LIFETIME:
            raise UsageError(f"a key lives {LEAST_LIFETIME.total_seconds():.0f} seconds at the least")
        self._store.require_free(namespace, name)
        storage = require_keeper(self._keeper).require_open() if persistent else MEMORY
        entry = Entry(namespace, name, use, lifetime, storage)
        return await self._added(entry, kind, None, made, payer)

    async def rotate(
        self, namespace: str, name: str, overlap: timedelta, *, made: Made | None = None, payer: str = ""
    ) -> NamedKey:
        """A new generation, which signs from now on; the one before can be asked for until ``overlap`` ends.

        Raises UsageError (``usage.key``), Conflict (``conflict.limit``: MAX_GENERATIONS overlap), and as create.
        """
        entry = self._store.entry(namespace, name)
        if len(entry.generations) >= MAX_GENERATIONS:
            raise Conflict(
                f"{name} has {MAX_GENERATIONS} generations",
                hint="wait until the overlap of the oldest ends",
                code="conflict.limit",
            )
        return await self._added(entry, entry.generations[-1].private.algorithm, overlap, made, payer)

    async def destroy(self, namespace: str, name: str, gone: Gone | None = None) -> None:
        """All generations, at once; those of a persistent key are off the disk then, a broken one's too.

        ``gone`` is told, with the newest generation where there was a usable one, even if nobody waits any more.
        Raises UsageError (``usage.key``), and for a persistent key as create.
        """
        await within(WAIT_SECONDS, self._tasks.start(self._destroy((namespace, name), gone)))

    async def _destroy(self, key: tuple[str, str], gone: Gone | None) -> None:
        entry = self._store.get(*key)
        if entry.persistent if entry else key in self._store.held:
            last = await require_keeper(self._keeper).destroyed(key)
        else:
            last = self._store.find(*key, 0)
            self._store.remove(self._store.entry(*key))
        if gone:
            await gone(last)

    def find(self, namespace: str, name: str, generation: int = 0) -> NamedKey:
        """The newest generation, or that of this number, whatever its evidence. Raises as Store.find."""
        if self._keeper:
            self._keeper.want((namespace, name))
        return self._store.find(namespace, name, generation)

    def finds(self, key: NamedKey, generation: int) -> bool:
        """Whether ``find`` gives just this one now, its evidence in force. Raises as find."""
        return self.find(key.namespace, key.name, generation) is key and key.valid(self._attester.now())

    async def current(self, key: NamedKey) -> NamedKey:
        """The same private key with evidence in force, renewed first where it is not.

        Raises UsageError (``usage.key``) when it has gone meanwhile, and as create.
        """
        entry, one = self._store.same(key)
        if not one.attested.valid(self._attester.now()):
            await within(WAIT_SECONDS, self._renewal(entry, one))
            entry, one = self._store.same(key)
        return entry.shown(one)

    def require(self, key: NamedKey) -> None:
        """Raises UsageError (``usage.key``) when the private key has gone meanwhile."""
        self._store.same(key)

    async def get(self, namespace: str, name: str, generation: int = 0) -> NamedKey:
        """``find``, then ``current``."""
        return await self.current(self.find(namespace, name, generation))

    def renew(self, outdated: Callable[[Attested], bool]) -> None:
        """Get new evidence for the keys whose evidence is ``outdated`` now, once; ``run`` sees to it."""
        self._outdated = {id(one.attested): one.attested for _, one in self._store.all() if outdated(one.attested)}
        self._changed.set()

    def all(self) -> tuple[NamedKey, ...]:
        """All generations of all namespaces."""
        return self._store.shown()

    def list(self, namespace: str) -> tuple[NamedKey, ...]:
        """All generations in a namespace, by name and number."""
        return tuple(key for key in self._store.shown() if key.namespace == namespace)

    async def run(self, log: Log) -> None:
        """Renew what comes to its age, forget what ended: for ever."""
        failures = 0
        while True:
            self._changed.clear()
            try:
                await self._renew_due()
                self.trouble, failures = None, 0
            except TeeAgentError as error:
                if not failures:
                    log("no new evidence for named keys", error)
                self.trouble, failures = error, failures + 1
            pause = min(RETRY_MAX, RETRY_SECONDS * 2 ** min(failures, 10)) if failures else self._pause()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _renew_due(self) -> None:
        at = self._attester.now()
        found = tuple(self._store.all())
        if self._keeper and self._store.stale:
            self._keeper.wake()
        for entry, one in found:
            if one.due() <= at or not one.attested.valid(at) or id(one.attested) in self._outdated:
                await within(WAIT_SECONDS, self._renewal(entry, one))

    def _pause(self) -> float | None:
        """Seconds until something is due; None where nothing ever is."""
        at = self._attester.now()
        return min((max(0.0, (one.due() - at).total_seconds()) for _, one in self._store.all()), default=None)

    async def _added(
        self, entry: Entry, kind: Algorithm, overlap: timedelta | None, made: Made | None, payer: str
    ) -> NamedKey:
        """One more generation in ``entry``, by a task that a caller who leaves does not end."""
        key = (entry.namespace, entry.name)
        if key in self._busy:
            raise Conflict(f"{entry.name} is being made", hint="ask again", code="conflict.key")
        self._store.require_place(entry.namespace, [namespace for namespace, _ in self._busy])
        payer = payer or entry.namespace
        give_back = self._budget.key_place(payer)
        self._busy.add(key)
        task = self._tasks.start(self._add(entry, kind, overlap, made, payer))
        task.add_done_callback(lambda _: give_back())
        return await within(WAIT_SECONDS, task)

    async def _add(
        self, entry: Entry, kind: Algorithm, overlap: timedelta | None, made: Made | None, payer: str
    ) -> NamedKey:
        try:
            one = await self._generated(entry, kind, payer)
            if entry.persistent:
                key = await require_keeper(self._keeper).added(entry, one, overlap)
            else:
                key = self._store.add(entry, one, self._store.until(entry, overlap))
        finally:
            self._busy.discard((entry.namespace, entry.name))
        self._changed.set()
        if made:
            await made(key)
        return key

    async def _generated(self, entry: Entry, kind: Algorithm, payer: str) -> Generation:
        private = PrivateKey(kind)
        async with self._budget.turn(Turn.KEY, payer):
            # From here, not from the request: a key should not lose life in the queue.
            created = now_in_seconds(self._attester.now())
            ends = created + entry.lifetime if entry.lifetime else None
            attested = await self._attested(entry, private, ends)
        number = entry.generations[-1].number + 1 if entry.generations else 1
        return Generation(number, private, created, ends, attested)

    def _renewal(self, entry: Entry, one: Generation) -> asyncio.Task[None]:
        """The renewal under way, or a new one: however many wait for it, it takes one quote."""
        if one.renewal is None:
            one.renewal = self._tasks.start(self._renew(entry, one))
        return one.renewal

    async def _renew(self, entry: Entry, one: Generation) -> None:
        try:
            async with self._budget.turn(Turn.RENEWAL, entry.namespace) as turn:
                turn.quoted = self._store.holds(one)
                if turn.quoted:
                    one.attested = await self._attested(entry, one.private, one.ends)
        finally:
            one.renewal = None
        # Not after a failure: run would try again without a pause.
        self._changed.set()

    async def _restored(self, entry: Entry, private: PrivateKey, ends: datetime | None) -> Attested:
        """Evidence for a key that was on the disk, when it is its turn."""
        async with self._budget.turn(Turn.RENEWAL, entry.namespace):
            return await self._attested(entry, private, ends)

    async def _attested(self, entry: Entry, private: PrivateKey, ends: datetime | None) -> Attested:
        wanted = Wanted(private.algorithm.name, entry.use, private.spki, entry.namespace, entry.storage, ends)
        return await in_thread(partial(self._attester.attest, wanted))
