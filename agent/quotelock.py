"""One quote at a time on the whole machine: a lock file shared by all our processes."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agent.core.errors import DeadlineExceeded, PermissionMissing, PlatformError
from agent.core.ports import Deadline
from agent.deadline import within

T = TypeVar("T")
_POLL_SECONDS = 0.05


class QuoteLock:
    """``path`` is made (0600) if absent, and so is its folder; neither may be others' to change."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, deadline: Deadline) -> Held:
        """The lock, waited for. Raises PlatformError, PermissionMissing, DeadlineExceeded."""
        fd = self._open()
        try:
            while not _locked(fd):
                self._wait(deadline)
        except BaseException:
            os.close(fd)
            raise
        return Held(fd)

    def alone(self, deadline: Deadline, what: str, call: Callable[[], T]) -> T:
        """``call()`` under the lock, in a thread of its own, waited for until the deadline.

        The lock is released where the call ends, which may be after the deadline: it is never interrupted. Raises
        what ``take``, ``within`` and the call raise.
        """
        held = self.take(deadline)

        def converse() -> T:
            with held:
                return call()

        return within(deadline, what, converse)

    def _wait(self, deadline: Deadline) -> None:
        try:
            deadline.sleep(_POLL_SECONDS * (0.5 + random.SystemRandom().random()))
        except DeadlineExceeded as error:
            raise DeadlineExceeded(
                f"{error.message}: other processes were making evidence ({self.path} is locked)"
            ) from error

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(mode=0o755, exist_ok=True)
            _check(self.path.parent, os.lstat(self.path.parent), stat.S_ISDIR, "folder")
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise _refused(error, self.path) from error
        try:
            _check(self.path, os.fstat(fd), stat.S_ISREG, "regular file")
        except PlatformError:
            os.close(fd)
            raise
        return fd


class Held:
    """The lock while it is held; released on exit."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check(path: Path, status: os.stat_result, is_kind: Callable[[int], bool], kind: str) -> None:
    """Root's or ours, of the right kind, and nobody else's to write."""
    if not is_kind(status.st_mode):
        raise PlatformError(f"{path} is not a {kind}", code="platform.lock")
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PlatformError(
            f"{path} could be changed by others", hint=f"chown root {path}; chmod go-w {path}", code="platform.lock"
        )


def _refused(error: OSError, path: Path) -> PlatformError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionMissing(f"{path}: {error.strerror}", hint="run as root, or ask the daemon")
    return PlatformError(f"{path}: cannot be used as lock: {error.strerror}", code="platform.lock")
