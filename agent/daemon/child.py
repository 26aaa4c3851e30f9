"""One role's process as its supervisor sees it: started clean, told to go, heard, ended with patience."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import agent
from agent.daemon.notify import PIPE
from agent.daemon.role import LIFELINE

_LINE_BYTES = 4096
_ROOT = str(Path(agent.__file__).resolve().parents[1])
_BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from agent.cli import main; sys.exit(main())"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Child:
    """One role's process. ``status`` is its exit status once ``ended`` is set, 128 + n for signal n."""

    def __init__(self, name: str, pid: int, pipe: int, lifeline: int) -> None:
        self.name = name
        self.pid = pid
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.heard = False
        self.status = 0
        self._pipe = pipe
        self._lifeline = lifeline
        self._pidfd = os.pidfd_open(pid)
        self._rest = b""
        os.set_blocking(pipe, False)

    def watch(self, told: Told) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pidfd, self._reap)
        loop.add_reader(self._pipe, self._read, told)

    def go(self) -> None:
        """It has loaded its code, or is about to, and waits for this word before it does anything."""
        with suppress(OSError):
            os.write(self._lifeline, b"\n")

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self.status = code if code >= 0 else 128 - code
        self.ended.set()

    def _read(self, told: Told) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._pipe, _LINE_BYTES)
            if not data:
                asyncio.get_running_loop().remove_reader(self._pipe)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                told(self, line.decode("utf-8", "replace"))
            self._rest = self._rest[-_LINE_BYTES:]

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def end(self, seconds: float) -> None:
        """SIGTERM, patience, SIGKILL."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.ended.wait()
        for descriptor in (self._pipe, self._lifeline, self._pidfd):
            os.close(descriptor)


Told = Callable[[Child, str], None]
"""Gets each line that a role says."""


def spawn(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Child:
    """``tee-agent ARGUMENTS`` in isolated mode, with nothing inherited but standard error and two pipes.

    It loads its code and waits for Child.go. Raises OSError.
    """
    (pipe, says), (hears, lifeline) = os.pipe(), os.pipe()
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-c", _BOOT, _ROOT, *arguments],
            {"PATH": _PATH, "LANG": "C.UTF-8", **environment},
            file_actions=[(os.POSIX_SPAWN_DUP2, hears, LIFELINE), (os.POSIX_SPAWN_DUP2, says, PIPE)],
            setsigmask=(),
            setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGHUP, signal.SIGCHLD),
        )
    finally:
        os.close(says)
        os.close(hears)
    return Child(name, pid, pipe, lifeline)
