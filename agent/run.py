"""The only door to other programs: no shell, a fixed environment, bounded output, one deadline.

Secrets go in by standard input or an inherited descriptor, never by argument or environment; output is kept out of
``repr`` and of messages, since it may hold one. When the deadline passes, or the program leaves children behind, its
whole process group is killed.
"""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.errors import DeadlineExceeded, Oversized, PlatformError, UsageError
from agent.core.model import Secret
from agent.core.ports import Deadline

ENVIRONMENT = {"LANG": "C", "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
PASSED_ON = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
"""What ``spawn`` may add: systemd's own words to a service."""

_REAP_SECONDS = 5.0
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended. ``returncode`` is negative for a signal; the outputs may be secret and are not printed."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)

    @property
    def replay(self) -> str:
        """The command as one would type it (secrets are never in it)."""
        return shlex.join(self.argv)


def run(
    argv: Sequence[str],
    *,
    stdin: Secret | bytes | None = None,
    deadline: Deadline,
    pass_fds: Sequence[int] = (),
    max_output: int = 1 << 20,
) -> Completed:
    """Run ``argv`` to its end and return how it ended, whatever its exit status.

    ``max_output`` bounds each of stdout and stderr, in bytes. Raises PlatformError (no such program), Oversized,
    DeadlineExceeded; the program's process group is dead by then.
    """
    process = _start(argv, pass_fds, subprocess.PIPE if stdin is not None else subprocess.DEVNULL)
    try:
        try:
            outputs = _Pipes(process, stdin, max_output).until(deadline)
        finally:
            _end(process)
    except DeadlineExceeded as error:
        raise DeadlineExceeded(f"{shlex.join(argv)}: {error.message}", hint=error.hint) from error
    return Completed(tuple(argv), process.returncode, *outputs)


def spawn(argv: Sequence[str], *, pass_fds: Sequence[int] = (), extra: Mapping[str, str] | None = None) -> Child:
    """Start one of our own long-running processes; standard input is empty, the outputs are ours.

    ``extra`` adds variables, only those in PASSED_ON. Raises PlatformError, UsageError.
    """
    unknown = sorted(set(extra or ()) - PASSED_ON)
    if unknown:
        raise UsageError(f"variables not passed on to children: {', '.join(unknown)}")
    return _popen(argv, pass_fds, subprocess.DEVNULL, None, {**ENVIRONMENT, **(extra or {})})


Child = subprocess.Popen[bytes]


def _start(argv: Sequence[str], pass_fds: Sequence[int], stdin: int) -> Child:
    return _popen(argv, pass_fds, stdin, subprocess.PIPE, ENVIRONMENT)


def _popen(
    argv: Sequence[str], pass_fds: Sequence[int], stdin: int, output: int | None, environment: Mapping[str, str]
) -> Child:
    heed_children()
    try:
        return subprocess.Popen(
            list(argv),
            stdin=stdin,
            stdout=output,
            stderr=output,
            bufsize=0,
            env=dict(environment),
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except OSError as error:
        raise PlatformError(
            f"{argv[0]}: cannot be started: {error.strerror}",
            hint=f"install the package that has {Path(argv[0]).name}",
            code="platform.program",
        ) from error


def heed_children() -> None:
    """Whoever started us may ignore SIGCHLD, and exec passes that on: exit statuses would be lost, and read as 0.

    Raises PlatformError where it can't be mended: outside the main thread.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        except ValueError as error:
            raise PlatformError("SIGCHLD is ignored: how programs end is lost", code="platform.signals") from error


def _end(process: Child) -> None:
    """Kill what is left of the group. The leader is not reaped yet, so its group id still means this group."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # all gone, or a set-user-id program that is not ours to kill
    try:
        process.wait(_REAP_SECONDS)
    except subprocess.TimeoutExpired as error:  # stuck in the kernel: a dead disk, say
        raise DeadlineExceeded("was killed, but hangs in the kernel") from error


class _Pipes:
    """Feeds stdin and drains the outputs until the program ends; stops reading then, whoever still holds a pipe."""

    def __init__(self, process: Child, stdin: Secret | bytes | None, max_output: int) -> None:
        self._process = process
        self._max = max_output
        self._out = {"stdout": bytearray(), "stderr": bytearray()}
        self._rest = memoryview(stdin.reveal() if isinstance(stdin, Secret) else stdin or b"")

    def until(self, deadline: Deadline) -> tuple[bytes, bytes]:
        ended = os.pidfd_open(self._process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(ended, selectors.EVENT_READ, "end")
                self._register(selector)
                while not self._step(selector, deadline):
                    pass
        finally:
            os.close(ended)
            self._rest.release()
        return bytes(self._out["stdout"]), bytes(self._out["stderr"])

    def _register(self, selector: selectors.BaseSelector) -> None:
        process = self._process
        for pipe, name in ((process.stdout, "stdout"), (process.stderr, "stderr"), (process.stdin, "stdin")):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                selector.register(
                    pipe.fileno(), selectors.EVENT_WRITE if name == "stdin" else selectors.EVENT_READ, name
                )

    def _step(self, selector: selectors.BaseSelector, deadline: Deadline) -> bool:
        """One round of readiness. True when the program has ended and what it wrote is read."""
        ready = {key.data: key.fd for key, _ in selector.select(deadline.remaining())}
        for name in ("stdout", "stderr"):
            if name in ready and not self._drain(name, ready[name], once="end" not in ready):
                selector.unregister(ready[name])
        if "stdin" in ready and not self._feed(ready["stdin"]):
            selector.unregister(ready["stdin"])
            if self._process.stdin is not None:
                self._process.stdin.close()
        return "end" in ready

    def _drain(self, name: str, fd: int, *, once: bool) -> bool:
        """Read one chunk, or all there is. False at the end of the pipe."""
        buffer = self._out[name]
        while True:
            try:
                chunk = os.read(fd, _CHUNK)
            except BlockingIOError:
                return True
            buffer += chunk
            if len(buffer) > self._max:
                program = self._process.args
                raise Oversized(f"{program!r} wrote more than {self._max} bytes to {name}", record=name)
            if not chunk or once:
                return bool(chunk)

    def _feed(self, fd: int) -> bool:
        """Write what the pipe takes. False when all is written, or nobody reads any more."""
        try:
            sent = os.write(fd, self._rest[:_CHUNK])
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        rest = self._rest[sent:]
        self._rest.release()
        self._rest = rest
        return len(rest) > 0
