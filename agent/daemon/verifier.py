"""Judges what apps ask about, beside the signer: evidence, certificates and tokens of anybody's making are read here.

Neither of the other processes is the place for it: the signer holds the keys, the quoter is root, and the fetcher has
the network, whose verdict on a peer an app should not have to take. So the signer forks before its first key exists;
the fork knows nothing worth stealing, has no network and no capabilities, and forks again for each question. What
reads the question can't open a file, a socket or a process any more, and has bounded time and memory; what it made of
them is gone with it. It shares its pages with the signer, and sleeps while nobody asks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Never

from agent.core.errors import PlatformError, ServerError
from agent.daemon.privileges import name_process
from agent.verify.question import MAX_BYTES

Work = Callable[[bytes], bytes]
"""From a question to its answer. Runs where nothing can be opened: all that it needs is imported before."""

AT_ONCE = 2
"""Questions that are judged at a time."""
ALL, EACH = 8, 3
"""Questions that are held in memory at the most: over all, and of one user."""
MAX_ANSWER = 1 << 20
CPU_SECONDS, PATIENCE_SECONDS = 10, 30.0
"""For one question: of a processor, and by the clock."""
MEMORY_BYTES = 256 << 20
"""Of data (RLIMIT_DATA) that a process for one question may have, what it shares with the signer included."""
_ERROR = "the verification ended without a verdict"
_HIGHEST = 1 << 16


class Verifier:
    """The signer's end. ``control`` leads to the process that forks."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._held: Counter[int] = Counter()

    @asynccontextmanager
    async def place(self, uid: int) -> AsyncIterator[None]:
        """Room for one question of this user. Raises ServerError (``server.budget``) where there is none."""
        if self._held.total() >= ALL or self._held[uid] >= EACH:
            raise ServerError("too many verifications at a time", retry_after=1.0, code="server.budget")
        self._held[uid] += 1
        try:
            yield
        finally:
            self._held[uid] -= 1
            if not self._held[uid]:
                del self._held[uid]

    async def ask(self, question: bytes) -> bytes:
        """What ``work`` says. Raises ServerError (``server.verify``) when it ended otherwise, or in no time."""
        async with self._slots:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    found = await self._ask(question)
            except (OSError, TimeoutError) as error:
                raise ServerError(_ERROR, hint="see the agent's log", code="server.verify") from error
        if not found or len(found) > MAX_ANSWER:
            raise ServerError(_ERROR, hint="it takes too much time or memory", code="server.verify")
        return found

    async def _ask(self, question: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self._control, [b"?"], [theirs.fileno()])
            ours.setblocking(False)
            await loop.sock_sendall(ours, question)
            ours.shutdown(socket.SHUT_WR)
            found = bytearray()
            while len(found) <= MAX_ANSWER and (chunk := await loop.sock_recv(ours, 1 << 16)):
                found += chunk
        return bytes(found)


def spawn(work: Work) -> Verifier:
    """Fork. Before the first key, the first thread and the event loop; after privileges are gone.

    Raises PlatformError where there may be no more processes.
    """
    # What is here now is the collector's business no more: it would write to pages that both could share.
    gc.collect()
    gc.freeze()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if not os.fork():
            _child(partial(_serve, theirs, work))
    except OSError as error:
        raise PlatformError(f"no process for verification: {error.strerror}", hint="TasksMax, RLIMIT_NPROC") from error
    theirs.close()
    ours.setblocking(False)
    return Verifier(ours)


def _child(main: Callable[[], None]) -> Never:
    """A forked process does this and no more: nothing of what its parent was about to do."""
    status = 1
    try:
        main()
        status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())
        os._exit(status)


def _serve(control: socket.socket, work: Work) -> None:
    """A process for each question, until the signer is gone."""
    name_process("tee-verifier")
    # A unit is stopped by signals to all of its processes; questions under way are answered first.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    _close_all_but(control.fileno())
    while True:
        said, links, _, _ = socket.recv_fds(control, 1, 1)
        if not said:
            return
        for link in links:
            # Without room for another process the link just ends, and the signer says so.
            with suppress(OSError):
                if not os.fork():
                    _child(partial(_answer, socket.socket(fileno=link), work))
            os.close(link)


def _close_all_but(kept: int) -> None:
    """Standard error stays too: defects are told there."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.closerange(3, kept)
    os.closerange(kept + 1, _HIGHEST)


def _answer(link: socket.socket, work: Work) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(PATIENCE_SECONDS))
    with suppress(OSError):  # the units' filter refuses it
        os.nice(10)
    # Descriptors and processes at zero: what is open stays, nothing is added.
    for limit, most in (
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_DATA, MEMORY_BYTES),
    ):
        resource.setrlimit(limit, (most, most))
    question = bytearray()
    while len(question) <= MAX_BYTES and (chunk := link.recv(1 << 16)):
        question += chunk
    if len(question) <= MAX_BYTES:
        with suppress(OSError):  # nobody waits any more
            link.sendall(work(bytes(question)))
