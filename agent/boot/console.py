"""The console of early boot: one-line reasons, and the prompt for a passphrase.

Whoever runs the host sees it and can type on it, and the prompt says so. Typed characters are not echoed.
"""

from __future__ import annotations

import os
import select
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.core.errors import PlatformError
from agent.core.model import Secret
from agent.core.ports import Deadline

CONSOLE = Path("/dev/console")
MAX_PASSPHRASE = 512
"""Bytes of a typed passphrase: cryptsetup's own limit for typing."""
WARNING = "this console is visible to the host: whoever runs this machine can read what you type"
_LOCAL_MODES = 3


def say(code: str, text: str, hint: str = "") -> None:
    """``tee-agent: [code] text``, and the hint below it."""
    sys.stderr.write(f"tee-agent: [{code}] {_one_line(text)}\n" + (f"  {_one_line(hint)}\n" if hint else ""))
    sys.stderr.flush()


def ask(question: str, deadline: Deadline, console: Path = CONSOLE) -> Secret:
    """A line typed at ``console`` without echo. Raises PlatformError, DeadlineExceeded (nobody typed)."""
    try:
        fd = os.open(console, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise PlatformError(f"{console}: no console to ask at: {error.strerror}", code="platform.console") from error
    try:
        with _silent(fd):
            os.write(fd, f"tee-agent: {WARNING}\n{_one_line(question)}: ".encode())
            return _line(fd, deadline)
    except OSError as error:
        raise PlatformError(f"{console}: cannot be used: {error.strerror}", code="platform.console") from error
    finally:
        os.close(fd)


def _line(fd: int, deadline: Deadline) -> Secret:
    """One line of the terminal's own editing, without its end."""
    typed = bytearray(MAX_PASSPHRASE)
    length = 0
    while length < len(typed):
        if not select.select([fd], [], [], deadline.remaining())[0]:
            continue
        count = os.readv(fd, [memoryview(typed)[length:]])
        length += count
        if not count or typed[length - 1] in b"\n":
            break
    os.write(fd, b"\n")
    while length and typed[length - 1] in b"\r\n":
        length -= 1
        typed[length] = 0
    del typed[length:]
    return Secret(typed)


@contextmanager
def _silent(fd: int) -> Iterator[None]:
    """No echo; what was typed before the question is dropped. A console that is no terminal stays as it is."""
    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        yield
        return
    now = list(before)
    now[_LOCAL_MODES] = (now[_LOCAL_MODES] & ~termios.ECHO) | termios.ICANON
    termios.tcsetattr(fd, termios.TCSAFLUSH, now)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)


def _one_line(text: str) -> str:
    """Messages may quote what a host wrote: nothing of it may move the cursor."""
    return "".join(character if character.isprintable() else " " for character in text)
