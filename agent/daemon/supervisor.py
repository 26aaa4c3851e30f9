"""`tee-agent daemon`: starts the three roles as processes of their own and ends with the first that ends.

It restarts nothing: systemd does, and a role that died may have died for a reason that its neighbours share. All
load their code at once, and then the quoter goes first, for without a TEE there is nothing to serve. Two pipes join a
role to its supervisor: it says READY through one, and by the other it is told to go, and stops when the supervisor is
gone, however it went.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from agent.core.config import Config
from agent.core.errors import PlatformError
from agent.daemon import privileges, sockets
from agent.daemon.child import Child, spawn
from agent.daemon.names import FETCHER, QUOTER, SIGNER, SOCKETS, SSH, socket_path
from agent.daemon.notify import Notifier, watchdog_seconds
from agent.hardening import harden
from agent.run import heed_children

GRACE_SECONDS = 15.0
"""For a role to end after SIGTERM; the quoter has a quote's time more."""
_BROKEN = 70
"""Exit status when a role ended well without having been asked to."""


class Supervisor:
    """Starts, listens, ends. ``config_path`` is handed to the roles, which read it themselves."""

    def __init__(self, config: Config, config_path: Path) -> None:
        self._config = config
        self._path = config_path
        self._notifier = Notifier(supervised=False)
        self._stop = asyncio.Event()
        self._children: list[Child] = []
        self._reload_due = False

    async def run(self) -> int:
        """Until told to stop (0), or until a role ends (its exit status)."""
        loop = asyncio.get_running_loop()
        heed_children()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            quoter, *others = [self._start(name) for name in (QUOTER, FETCHER, SIGNER)]
            for children in ([quoter], others):
                if not self._over():
                    await self._started(children)
            await self._until_end()
            return self._verdict()
        finally:
            self._notifier.stopping()
            await self._end()

    def _start(self, name: str) -> Child:
        seconds = watchdog_seconds()
        environment = {"WATCHDOG_USEC": str(int(seconds * 2_000_000))} if seconds else {}
        arguments = ("daemon", "--role", name, "--supervised", "--config", str(self._path))
        try:
            child = spawn(name, arguments, environment)
        except OSError as error:
            raise PlatformError(f"can't start the {name}: {error.strerror}") from error
        child.watch(self._told)
        self._children.append(child)
        return child

    async def _started(self, children: list[Child]) -> None:
        for child in children:
            child.go()
        for child in children:
            await self._first(child.ready)
        if children[-1].name == SIGNER and not self._over():
            self._notifier.ready(f"serves {socket_path(self._config.daemon.runtime_dir, SIGNER)}")

    def _reload(self) -> None:
        """The access policy is the signer's to read; one that is not up yet is told when it is."""
        signers = [child for child in self._children if child.name == SIGNER and child.ready.is_set()]
        self._reload_due = not signers
        for child in signers:
            if not child.ended.is_set():
                child.signal(signal.SIGHUP)

    async def _until_end(self) -> None:
        await self._first(asyncio.Event())

    async def _first(self, event: asyncio.Event) -> None:
        """Until ``event``, the order to stop, or the end of any role."""
        events = [event, self._stop, *(child.ended for child in self._children)]
        tasks = [asyncio.create_task(each.wait()) for each in events]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    def _over(self) -> bool:
        return self._stop.is_set() or any(child.ended.is_set() for child in self._children)

    def _verdict(self) -> int:
        for child in self._children:
            if child.ended.is_set() and not self._stop.is_set():
                how = f"was ended by signal {child.status - 128}" if child.status > 128 else f"ended: {child.status}"
                sys.stderr.write(f"tee-agent daemon: the {child.name} {how}; so does everything\n")
                return child.status or _BROKEN
        return 0

    def _told(self, child: Child, line: str) -> None:
        if line == "READY=1":
            child.ready.set()
            if self._reload_due:
                self._reload()
        elif line == "WATCHDOG=1":
            self._heard(child)
        elif line.startswith("STATUS=") and child.ready.is_set():
            self._notifier.say(f"STATUS={child.name}: {line.removeprefix('STATUS=')}")

    def _heard(self, child: Child) -> None:
        """One sign of life upwards when each role has given one."""
        child.heard = True
        if all(each.heard for each in self._children):
            self._notifier.say("WATCHDOG=1")
            for each in self._children:
                each.heard = False

    async def _end(self) -> None:
        """Last started, first ended: the signer's clients get their answers while the quoter still works."""
        for child in reversed(self._children):
            await child.end(GRACE_SECONDS + (self._config.evidence.quote_seconds if child.name == QUOTER else 0))
        for name in (*SOCKETS.values(), SSH):
            sockets.remove(self._config.daemon.runtime_dir, name)


def run(config: Config, config_path: Path) -> int:
    """The supervisor's process. Returns the exit status. Raises ConfigError, PlatformError."""
    harden()
    os.umask(0o022)
    # Told before anything starts: one message instead of three.
    privileges.unprivileged(config.daemon.signer_user, "signer_user")
    privileges.unprivileged(config.daemon.fetcher_user, "fetcher_user")
    sockets.prepare(config.daemon.runtime_dir)

    async def main() -> int:
        return await Supervisor(config, config_path).run()

    return asyncio.run(main())
