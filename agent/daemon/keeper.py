"""Persistent keys in the running signer: opened once their root is there, restored with evidence of this boot, and
kept in step with their files.

Nothing here holds up the start: the root may be at a service that can't be reached. Until it has come, the keys whose
files there are keep their names and are ``locked``; so is each until it has its evidence. One change of the disk at a
time, in a thread; a lock is held from the look at what there is to the change in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from agent.core.errors import ConfigError, Conflict, FormatError, ServerError, TeeAgentError, VerificationError
from agent.daemon import problem
from agent.daemon.held import Held
from agent.daemon.journal import Reports
from agent.daemon.keyfile import KeyName, StoredGeneration, StoredKey
from agent.daemon.keyfolder import Contents, Found, KeyFolder, Sealer
from agent.daemon.keyhistory import CHANGED, OPENED, History
from agent.daemon.keys import RETRY_MAX, RETRY_SECONDS, Attested, Log
from agent.daemon.keystore import Entry, Generation, NamedKey, Store
from agent.daemon.privatekey import PrivateKey
from agent.daemon.threads import in_thread

Root = Callable[[], Awaitable[Sealer]]
"""Gives the root's sealer. Raises TeeAgentError while there is none."""
Evidence = Callable[[Entry, PrivateKey, datetime | None], Awaitable[Attested]]
"""Makes a key's evidence when it is its turn."""
LOCKED_SECONDS = 5.0
"""For a caller to ask again."""
NO_ROOT, NO_EVIDENCE = "the root that it is sealed under is not here yet", "its evidence of this boot is not made yet"
UNCONFIGURED = "the configuration has no root ([sealing])"


class Keeper:
    """``root`` is None where the configuration has none: then the folder is only looked at.

    ``trouble`` is why not all is as it should be, or None; ``doubts`` and ``notes`` tell what was found in the folder.
    """

    def __init__(self, folder: KeyFolder, root: Root | None, reports: Reports, history: History | None = None) -> None:
        self._lock, self._wake = asyncio.Lock(), asyncio.Event()
        self.trouble: TeeAgentError | None = None
        self.notes, self.doubts = list[str](), list[str]()
        self._folder, self._root, self._reports, self._history = folder, root, reports, history
        self._pending: dict[KeyName, Found] = {}
        self._open, self._kind = False, ""
        self._following = 0

    def begin(self, store: Store, evidence: Evidence) -> None:
        """Before anybody is served: the names on the disk are taken. Raises Conflict when another process has them."""
        self._store, self._evidence = store, evidence
        try:
            self._hold(self._folder.names(), Held("locked", NO_ROOT if self._root else UNCONFIGURED))
            if self._root:
                self._folder.lock()
        except Conflict:
            raise
        except TeeAgentError as error:
            self.trouble = error

    def _hold(self, names: Iterable[KeyName], held: Held) -> None:
        self._store.held |= dict.fromkeys(names, held)

    def require_open(self) -> str:
        """What statements call the place of such keys. Raises ConfigError (``config.sealing``), ServerError
        (``server.locked``)."""
        if self._root is None:
            raise ConfigError(
                "persistent keys need a root to be sealed under, and none is configured",
                hint="root decides: [sealing] root",
                code="config.sealing",
            )
        if not self._open:
            why = self.trouble.message if self.trouble else "the root has not come yet"
            raise ServerError(f"persistent keys are locked: {why}", retry_after=LOCKED_SECONDS, code="server.locked")
        return self._kind

    def wake(self) -> None:
        """Something ended: its file is to follow."""
        self._wake.set()

    def want(self, key: KeyName) -> None:
        """Somebody asked for a key that is locked: its evidence is made next."""
        if found := self._pending.pop(key, None):
            self._pending = {key: found, **self._pending}

    def summary(self) -> dict[str, Any]:
        """For the status; ``unwritten`` are keys of which something ended that the disk still has."""
        states = [held.state for held in self._store.held.values()]
        return {
            "open": self._open,
            "keys": len({entry.key for entry, _ in self._store.all() if entry.persistent}),
            "locked": states.count("locked"),
            "broken": states.count("broken"),
            "unwritten": len(self._store.stale) + self._following,
            "serial": self._folder.serial,
            "trouble": problem.document(self.trouble) if self.trouble else None,
            "doubts": self.doubts,
            "notes": self.notes,
        }

    async def added(self, entry: Entry, one: Generation, overlap: timedelta | None) -> NamedKey:
        """A new key, or the next generation of one, first on the disk and then in memory.

        Raises ServerError (``server.storage``), UsageError (``usage.key``): then there is none.
        """
        async with self._lock:
            until = self._store.until(entry, overlap)
            await self._save(entry, one, until)
            key = self._store.add(entry, one, until)
            await self._changed(entry.key)
            return key

    async def destroyed(self, key: KeyName) -> NamedKey | None:
        """The key is gone from the disk, and then from memory; its newest generation, where it could be used.

        Raises ServerError, and as require_open: then it is as it was.
        """
        async with self._lock:
            self.require_open()
            await self._disk(partial(self._folder.remove, key))
            self._pending.pop(key, None)
            self._store.held.pop(key, None)
            entry = self._store.get(*key)
            if entry:
                self._store.remove(entry)
            await self._changed(key)
            return entry.shown(entry.generations[-1]) if entry else None

    async def _save(self, entry: Entry, one: Generation | None = None, until: datetime | None = None) -> None:
        """The entry is on the disk as it will be with ``one`` more generation, the one before ending ``until`` then."""
        at = self._store.now()
        kept = [(one_kept.private, _stored(one_kept)) for one_kept in entry.generations]
        if until is not None and kept:
            kept[-1] = (kept[-1][0], replace(kept[-1][1], ends=until))
        if one is not None:
            kept.append((one.private, _stored(one)))
        kept = [(private, stored) for private, stored in kept if not stored.over(at)]
        if not kept:
            await self._disk(partial(self._folder.remove, entry.key))
            return
        algorithm, generations = kept[-1][0].algorithm, tuple(stored for _, stored in kept)
        key = StoredKey(entry.namespace, entry.name, entry.use, algorithm, entry.lifetime, 0, generations)
        await self._disk(partial(self._folder.put, key, [private for private, _ in kept]))

    async def _disk(self, change: Callable[[], object]) -> None:
        """Made in a thread; ``run`` sees to what it leaves behind, also where it failed."""
        try:
            await in_thread(change)
        finally:
            if self._folder.trouble:
                self.wake()

    async def _changed(self, key: KeyName) -> None:
        """Something of ``key`` is on the disk, or off it: the log is told."""
        await self._reports.tell(CHANGED, "info", key="/".join(key), serial=self._folder.serial)

    async def run(self, log: Log) -> None:
        """Open, restore, and follow what ends: for ever."""
        if self._root is None:
            await asyncio.Event().wait()
        failures = 0
        while True:
            self._wake.clear()
            try:
                await self._round()
                self.trouble, failures = None, 0
            except TeeAgentError as error:
                if not failures:
                    log("persistent keys", error)
                self.trouble, failures = error, failures + 1
            if failures:
                # Whoever wakes us meanwhile does not make the disk, or the service, any better.
                await asyncio.sleep(min(RETRY_MAX, RETRY_SECONDS * 2 ** min(failures, 10)))
            else:
                await self._wake.wait()

    async def _round(self) -> None:
        if not self._open:
            await self._opened()
        # Neither waits for the other: keys sign on a disk that is full, and files go while there is no quoter.
        following, restoring = await self._tried(self._follow), await self._tried(self._restore_all)
        # Again, for what ended meanwhile; not a disk that has just failed.
        if trouble := following or await self._tried(self._follow) or restoring:
            raise trouble

    async def _tried(self, step: Callable[[], Awaitable[None]]) -> TeeAgentError | None:
        try:
            await step()
        except TeeAgentError as error:
            self.trouble = error
            return error
        return None

    async def _opened(self) -> None:
        contents = await self._read()
        self._store.held.clear()
        self._pending = {found.stored.key: found for found in contents.keys}
        self._hold(self._pending, Held("locked", NO_EVIDENCE))
        for key, reason in contents.broken.items():
            self._hold([key], Held("broken", reason))
        if self._history:
            self.doubts = await in_thread(partial(self._history.doubts, contents.serial, contents.audit))
        self._open, self.notes = True, contents.notes
        await self._tell(contents)

    async def _read(self) -> Contents:
        """What the folder has. Raises what keeps it from being read, and says so of each key."""
        assert self._root is not None
        try:
            sealer = await self._root()
        except TeeAgentError as error:
            self._hold(self._store.held, Held("locked", error.message))
            raise
        try:
            async with self._lock:
                contents = await in_thread(partial(self._folder.open, sealer))
        except TeeAgentError as error:
            bad = isinstance(error, FormatError | VerificationError)
            self._hold(self._store.held, Held("broken" if bad else "locked", error.message))
            raise
        self._kind = sealer.kind
        return contents

    async def _tell(self, contents: Contents) -> None:
        for (namespace, name), reason in contents.broken.items():
            await self._reports.tell("key.broken", "alert", key=f"{namespace}/{name}", reason=reason)
        for note in (*self.doubts, *contents.notes):
            await self._reports.tell("keys.strange", "alert", note=note)
        usable, broken = len(contents.keys), len(contents.broken)
        await self._reports.tell(
            OPENED, "info", serial=contents.serial, keys=usable, broken=broken, removed=contents.removed
        )

    async def _follow(self) -> None:
        """Files follow what ended in memory; then what a change could not remove."""
        while self._store.stale:
            key = self._store.stale.pop()
            self._following = 1
            try:
                async with self._lock:
                    entry = self._store.get(*key)
                    if entry and entry.persistent:
                        await self._save(entry)
                    else:
                        await self._disk(partial(self._folder.remove, key))
                    await self._changed(key)
            except TeeAgentError:
                self._store.stale.add(key)
                raise
            finally:
                self._following = 0
        if self._folder.trouble:
            async with self._lock:
                await in_thread(self._folder.settle)

    async def _restore_all(self) -> None:
        while self._pending:
            await self._restore()

    async def _restore(self) -> None:
        """The first key that waits. Raises what keeps evidence from being made; then another one is first."""
        key, found = next(iter(self._pending.items()))
        stored, at = found.stored, self._store.now()
        entry = Entry(stored.namespace, stored.name, stored.use, stored.lifetime, self._kind)
        try:
            for private, one in zip(found.private, stored.generations, strict=True):
                if not one.over(at):
                    made = await self._evidence(entry, private, one.ends)
                    entry.generations.append(Generation(one.number, private, one.created, one.ends, made))
        except TeeAgentError:
            if self._pending.pop(key, None):
                self._pending[key] = found
            raise
        if self._pending.pop(key, None) is None:
            return
        if self._store.get(*key):
            self._hold([key], Held("broken", "another key has its name"))
            return
        for restored in self._store.install(entry):
            await self._reports.key("key.restored", None, restored, "info")
        if len(entry.generations) < len(stored.generations):
            self._store.stale.add(key)


def require_keeper(keeper: Keeper | None) -> Keeper:
    """Raises ConfigError (``config.sealing``)."""
    if keeper is None:
        raise ConfigError("this agent keeps no keys", code="config.sealing")
    return keeper


def _stored(one: Generation) -> StoredGeneration:
    return StoredGeneration(one.number, one.private.spki, one.created, one.ends)
