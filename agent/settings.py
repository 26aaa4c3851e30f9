"""Reads the configuration file: bounded, regular, not writable by everybody. What it means is agent.core.config's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.core.config import MAX_BYTES, Config, parse
from agent.core.errors import ConfigError

DEFAULT_PATH = Path("/etc/tee-agent/tee-agent.toml")


def load(path: Path = DEFAULT_PATH) -> Config:
    """The configuration in ``path``. Raises ConfigError, also when it can't be read."""
    try:
        text = read_bounded(path, MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid UTF-8 at byte {error.start}", code="config.syntax") from error
    return parse(text, str(path))


def load_or_defaults(path: Path) -> Config:
    """The same for what works without a configuration too: none in the usual place means the defaults."""
    if path == DEFAULT_PATH and not path.exists():
        return Config(str(path))
    return load(path)


def read_bounded(path: Path, most: int) -> bytes:
    """All bytes of a regular file, ``most`` at the most. Raises ConfigError; also for a file everybody may write."""
    try:
        mode, data = _read(path, most + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", code="config.unreadable") from error
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path}: not a regular file", code="config.unreadable")
    if mode & stat.S_IWOTH:
        raise ConfigError(f"{path}: everybody may write to it", hint=f"chmod o-w {path}", code="config.unsafe")
    if len(data) > most:
        raise ConfigError(f"{path}: larger than {most} bytes", code="config.too-large")
    return data


def _read(path: Path, size: int) -> tuple[int, bytes]:
    # O_NONBLOCK: a FIFO in place of the file must not hang the boot.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            return mode, b""
        with os.fdopen(fd, "rb", closefd=False) as file:
            return mode, file.read(size)
    finally:
        os.close(fd)
