"""Judges what apps ask about, beside the signer: evidence, certificates and tokens of anybody's making are read here.

Neither of the other processes is the place for it: the signer holds the keys, the quoter is root, and the fetcher has
the network, whose verdict on a peer an app should not have to take. So the signer forks before its first key exists;
the fork knows nothing worth stealing, has no network and no capabilities. Three levels, all of one memory image:

- the keeper, the signer's child, only waits: for the end of the server, in whose place it puts another;
- the server forks for each question;
- what reads the question can't open a file, a socket or a process any more, and has bounded time and memory; what it
  made of them is gone with it.

The signer has keys by then, so nothing replaces the keeper. Once keeper and server are both gone, whoever ended them,
``trouble`` says it, and the log. When the signer ends, all of them do. They sleep while nobody asks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import select
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Never

from agent.core.errors import PlatformError, ServerError, TeeAgentError
from agent.daemon.privileges import end_with_parent, name_process
from agent.daemon.tasks import Tasks
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
REPLACED_SECONDS = 1.0
"""Between the end of a server and the next one."""
KEEPER, SERVER = "tee-verify-keep", "tee-verifier"
"""The processes' names, as ps shows them."""
_ERROR = "the verification ended without a verdict"
_HIGHEST = 1 << 16

Told = Callable[[str, TeeAgentError], None]
"""Gets what failed by itself: agent.daemon.keys.Log."""


class Verifier:
    """The signer's end. ``control`` leads to the process that forks.

    ``trouble``: why nothing is judged until the signer starts again; None where it is.
    """

    def __init__(self, control: socket.socket) -> None:
        self.trouble: ServerError | None = None
        self._control = control
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._held: Counter[int] = Counter()
        self._tasks = Tasks()

    def watch(self, told: Told) -> None:
        """Inside the running loop: once nobody is at the other end any more, that is ``trouble``, and ``told``."""
        asyncio.get_running_loop().add_reader(self._control, self._ended, told)

    def _ended(self, told: Told) -> None:
        """Nothing is ever said here. So this is the end; and if something was, it should be."""
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        self.trouble = ServerError(
            "the processes that judge documents were ended from outside",
            hint="systemctl restart tee-agent-signer.service, which costs the keys that are in memory only; "
            "signing goes on without",
            code="server.verify",
        )
        told("verification", self.trouble)

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
        """What ``work`` says. Raises ServerError (``server.verify``) when it ended otherwise, or in no time.

        Who stops waiting does not stop the process: this ends with it, so that nobody has more of them than his share.
        """
        async with self._slots:
            if self.trouble:
                raise self.trouble
            asked = self._tasks.start(self._ask(question))
            try:
                found = await asyncio.shield(asked)
            except asyncio.CancelledError:
                await asyncio.wait([asked])
                raise
            except (OSError, TimeoutError) as error:
                raise ServerError(_ERROR, hint="see the agent's log", code="server.verify") from error
        if not found or len(found) > MAX_ANSWER:
            raise ServerError(_ERROR, hint="it takes too much time or memory", code="server.verify")
        return found

    async def _ask(self, question: bytes) -> bytes:
        """Raises OSError, TimeoutError."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self._control, [b"?"], [theirs.fileno()])
            ours.setblocking(False)
            async with asyncio.timeout(PATIENCE_SECONDS):
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
    # The signer starts nothing else: that its child is gone it learns from the socket, and needs no exit status.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        if not os.fork():
            _child(partial(_keep, theirs, work))
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
        try:
            if status:
                sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)


def _keep(control: socket.socket, work: Work) -> None:
    """One server after the other, until one ends well: then the signer is gone."""
    name_process(KEEPER)
    # A unit is stopped by signals to all of its processes; questions under way are answered first.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _close_all_but(control.fileno())
    hung_up = select.poll()
    hung_up.register(control, 0)
    while how := _served(control, work):
        with suppress(OSError):  # nobody reads the journal
            sys.stderr.write(f"tee-agent verifier: {how}; another one follows\n")
            sys.stderr.flush()
        if hung_up.poll(REPLACED_SECONDS * 1000):
            return


def _served(control: socket.socket, work: Work) -> str:
    """How a server ended, "" where it was told to."""
    try:
        pid = os.fork()
    except OSError as error:
        return f"no process: {error.strerror}"
    if not pid:
        _child(partial(_serve, control, work))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"ended by signal {-code}" if code < 0 else f"ended: {code}" if code else ""


def _serve(control: socket.socket, work: Work) -> None:
    """A process for each question, until the signer is gone."""
    name_process(SERVER)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        said, links, _, _ = socket.recv_fds(control, 1, 1)
        if not said:
            return
        for link in links:
            # Without room for another process the link just ends, and the signer says so.
            with suppress(OSError):
                if not os.fork():
                    control.close()
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
    end_with_parent()
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
