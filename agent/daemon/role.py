"""The life of one role's process: hardened, named, told to stop by a signal or by the end of its supervisor."""

from __future__ import annotations

import asyncio
import codecs
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

from agent.core.errors import TeeAgentError
from agent.daemon.eager import EagerSelector
from agent.daemon.notify import Notifier, keep_alive, watchdog_seconds
from agent.daemon.privileges import name_process
from agent.hardening import harden

CODECS = ("ascii", "latin-1", "utf-8", "utf-16-be", "idna")
"""Loaded while the interpreter's own files can be read: a role's user may be unable to (a tree under /root)."""
LIFELINE = 0
"""Under the supervisor, standard input is a pipe that only the supervisor holds open: one byte is the word to go."""


class Life:
    """What a role needs to know about its own process."""

    def __init__(self, name: str, *, supervised: bool) -> None:
        self.name = name
        self.supervised = supervised
        self.notifier = Notifier(supervised=supervised)
        self.stop = asyncio.Event()

    def log(self, text: str) -> None:
        """One line to the journal. Never key material, never a secret."""
        with suppress(OSError):  # whoever read it may be gone
            sys.stderr.write(f"tee-agent {self.name}: {text}\n")
            sys.stderr.flush()

    def log_error(self, what: str, error: TeeAgentError) -> None:
        hint = f" ({error.hint})" if error.hint else ""
        self.log(f"{what}: {error.message}{hint} [{error.code}]")


def begin(name: str, *, supervised: bool) -> Life:
    """First thing in a role's process, before threads, keys and other people's bytes."""
    notes = harden()
    os.umask(0o022)
    os.chdir("/")
    for codec in CODECS:
        codecs.lookup(codec)
    name_process(f"tee-{name}")
    if supervised and not os.read(LIFELINE, 1):
        raise SystemExit(0)  # the supervisor went before it said go
    life = Life(name, supervised=supervised)
    for note in notes:
        life.log(note)
    return life


def rehardened() -> None:
    """After a change of user: the kernel resets PR_SET_DUMPABLE then (prctl(2))."""
    harden(lock_memory=False)


def live(life: Life, main: Callable[[Life], Awaitable[None]]) -> int:
    """Run ``main`` until it ends; it should watch ``life.stop``. Returns the exit status."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(EagerSelector())) as runner:
        runner.run(_live(life, main))
    return 0


async def _live(life: Life, main: Callable[[Life], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.stop.set)
    if life.supervised:
        os.set_blocking(LIFELINE, False)
        loop.add_reader(LIFELINE, _lifeline, life)
    watchdog = asyncio.create_task(keep_alive(life.notifier, watchdog_seconds()))
    try:
        await main(life)
    finally:
        life.notifier.stopping()
        watchdog.cancel()
        with suppress(asyncio.CancelledError):
            await watchdog


def _lifeline(life: Life) -> None:
    with suppress(BlockingIOError):
        if not os.read(LIFELINE, 64):
            asyncio.get_running_loop().remove_reader(LIFELINE)
            life.stop.set()
