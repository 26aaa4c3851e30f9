"""The life of a simulator process: show a TEE, say ready, wait for a signal or an unmount, leave nothing behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.core.errors import PlatformError, TeeAgentError
from sim.control import Server
from sim.faults import Faults
from sim.keys import write_atomically

_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_LEAVE_SECONDS = 1.0
"""A client that keeps a file open keeps the detached tree alive; its descriptors break when this process ends."""


class Face(Protocol):
    """The way in which a TEE is seen by this machine. Each method is called once."""

    def open(self) -> None:
        """Take what it needs. Raises PlatformError, Conflict, OSError."""
        ...

    def serve(self, up: Callable[[], None]) -> None:
        """Until closed, or taken away by somebody else; ``up`` is called once everybody can see it."""
        ...

    def close(self) -> None:
        """End ``serve``, from another thread."""
        ...


@dataclass
class Service:
    """One face of one TEE. ``run`` may be called once."""

    face: Face
    faults: Faults
    control: Path | None = None
    ready_file: Path | None = None
    ready_fd: int | None = None

    def run(self, ready: Callable[[], None]) -> int:
        """Serve until SIGTERM, SIGINT, SIGHUP or umount; 0 then. Raises PlatformError, Conflict."""
        try:
            return self._run(ready)
        except OSError as error:
            raise PlatformError(f"{error.filename or 'the simulator'}: {error.strerror or error}") from error

    def _run(self, ready: Callable[[], None]) -> int:
        # Blocked before any thread starts, so that only this thread, in sigwait, ever sees them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        self.face.open()
        settled, up = threading.Event(), threading.Event()

        def seen() -> None:
            up.set()
            settled.set()

        server = threading.Thread(target=self._serve, args=(seen, settled), daemon=True)
        server.start()
        settled.wait()
        try:
            if not up.is_set():
                raise PlatformError("the kernel did not take what the simulator shows", hint="see above for the reason")
            self._live(ready)
        finally:
            self.faults.clear()
            self.face.close()
            server.join(_LEAVE_SECONDS)
        return 0

    def _serve(self, seen: Callable[[], None], settled: threading.Event) -> None:
        try:
            self.face.serve(seen)
        except (RuntimeError, OSError, TeeAgentError) as error:
            sys.stderr.write(f"sim: ended: {error}\n")
        finally:
            settled.set()
            # Taken away by somebody else: wake the main thread as a signal would.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _live(self, ready: Callable[[], None]) -> None:
        control = Server(self.control, self.faults) if self.control else None
        try:
            self._announce()
            ready()
            signal.sigwait(_ENDING)
        finally:
            if control:
                control.close()
            if self.ready_file:
                self.ready_file.unlink(missing_ok=True)

    def _announce(self) -> None:
        if self.ready_file:
            write_atomically(self.ready_file, b"%d\n" % os.getpid())
        if self.ready_fd is not None:
            os.write(self.ready_fd, b"ready\n")
            os.close(self.ready_fd)


def in_background(service: Service) -> int:
    """Fork, serve in the child, return 0 here once it is ready; otherwise the child's exit status."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child:
        os.close(theirs)
        if os.read(ours, 1):
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(ours)
    os.setsid()
    try:
        status = service.run(lambda: _let_go(theirs))
    except TeeAgentError as error:
        status = complain(error)
    os._exit(status)


def complain(error: TeeAgentError) -> int:
    """Say what was wrong and what to do, on stderr; the exit status."""
    hint = f"\n  {error.hint}" if error.hint else ""
    sys.stderr.write(f"sim: {error.message}{hint}\n  [{error.code}]\n")
    return error.exit_status


def _let_go(pipe: int) -> None:
    """Drop the terminal, then tell the parent."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.write(pipe, b"r")
    os.close(pipe)
