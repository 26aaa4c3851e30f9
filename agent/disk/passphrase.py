"""The admin's passphrase: from a key file byte by byte, or typed. Never from an argument or the environment (I6)."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from agent.core.errors import UsageError
from agent.core.model import Secret

MAX_BYTES = 8 << 20
"""Of a key file: cryptsetup's own default limit."""
_STDIN = 0


def from_file(path: Path) -> Secret:
    """All bytes of a key file, its newline too, as cryptsetup's --key-file takes them; ``-`` is standard input.

    Raises UsageError when it can't be read, is empty, or is longer than 8 MiB.
    """
    if str(path) == "-":
        return _read(_STDIN, "standard input")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", code="usage.key-file") from error
    try:
        return _read(fd, str(path))
    finally:
        os.close(fd)


def from_terminal(prompt: str) -> Secret:
    """A line typed without echo. Raises UsageError where there is no terminal."""
    try:
        with Path("/dev/tty").open("rb"):
            typed = getpass.getpass(prompt)
    except (OSError, EOFError) as error:
        raise UsageError(
            "a passphrase is needed, and there is no terminal to ask at", hint="use --key-file", code="usage.key-file"
        ) from error
    if not typed:
        raise UsageError("an empty passphrase opens nothing", code="usage.key-file")
    return Secret(typed.encode())


def _read(fd: int, name: str) -> Secret:
    buffer = bytearray(MAX_BYTES + 1)
    length = 0
    try:
        while length < len(buffer) and (count := os.readv(fd, [memoryview(buffer)[length:]])):
            length += count
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}", code="usage.key-file") from error
    if not 0 < length <= MAX_BYTES:
        problem = "is empty" if not length else f"has more than {MAX_BYTES} bytes"
        raise UsageError(f"key file {name} {problem}", code="usage.key-file")
    del buffer[length:]
    return Secret(buffer)
