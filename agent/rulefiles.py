"""Reads the access policy's folder: root's files only, bounded. What they mean is agent.core.access's.

The folder is ``policy.d`` beside the configuration file; ``*.toml`` in it counts, without names that begin with a dot.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

from agent.core.access import Rules
from agent.core.accessparse import Accounts
from agent.core.config import Config
from agent.core.errors import ConfigError
from agent.daemon import privileges
from agent.daemon.privileges import User

FOLDER = "policy.d"
MAX_FILES = 100
MAX_BYTES = 64 * 1024
"""Of one file."""
_ROOT = 0
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def folder_of(config: Config) -> Path:
    """Where the rules of this configuration are, or would be."""
    return Path(config.source).parent / FOLDER


def load(config: Config) -> Rules:
    """The rules as they stand, with names looked up on this machine. Raises ConfigError."""
    members, unknown = privileges.members(config.daemon)
    rules = Rules.parse(read(folder_of(config)), accounts=Accounts(user_id, group_id), members=members)
    if rules.rules:
        return rules
    notes = tuple(f"[daemon] allows {name}, which this machine does not know" for name in unknown)
    return Rules(members=members, notes=notes)


def read(folder: Path) -> Mapping[str, str]:
    """Name (with its folder) and text of each file; empty where there is no folder. Raises ConfigError."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unreadable(folder, error) from error
    try:
        _require_roots(folder, os.fstat(handle))
        with os.scandir(handle) as found:
            names = [one.name for one in found if one.name.endswith(".toml") and not one.name.startswith(".")]
        if len(names) > MAX_FILES:
            raise ConfigError(f"{folder}: more than {MAX_FILES} files", code="config.too-large")
        return {str(folder / name): _text(folder / name, name, handle) for name in sorted(names)}
    finally:
        os.close(handle)


def _text(path: Path, name: str, folder: int) -> str:
    try:
        data = _bytes(path, name, folder)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes", code="config.too-large")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid UTF-8 at byte {error.start}", code="config.syntax") from error


def _bytes(path: Path, name: str, folder: int) -> bytes:
    # O_NONBLOCK: a FIFO in place of a file must not hold the daemon.
    handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    try:
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode):
            raise ConfigError(f"{path}: not a regular file", code="config.unreadable")
        _require_roots(path, seen)
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(handle)


def require_readable(folder: Path, user: User) -> None:
    """The signer reads the files as ``user``, without supplementary groups. Raises ConfigError."""
    if not folder.is_dir():
        return
    for path, needed in ((folder, 5), *((Path(name), 4) for name in read(folder))):
        seen = path.stat()
        given = seen.st_mode | (seen.st_mode >> 3 if seen.st_gid == user.gid else 0)
        if given & needed != needed:
            raise ConfigError(
                f"{path}: the signer's user can't read it", hint=f"chmod a+rX {path}", code="config.unreadable"
            )


def _require_roots(path: Path, seen: os.stat_result) -> None:
    if seen.st_uid != _ROOT or seen.st_mode & _OTHERS:
        raise ConfigError(
            f"{path}: others than root may change it",
            hint=f"chown root {path}; chmod go-w {path}",
            code="config.unsafe",
        )


def _unreadable(path: Path, error: OSError) -> ConfigError:
    hint = "the signer's user reads it too: chmod a+rX" if isinstance(error, PermissionError) else ""
    return ConfigError(f"{path}: cannot be read: {error.strerror}", hint=hint, code="config.unreadable")


def user_id(name: str) -> int | None:
    """A user's id on this machine, None for an unknown name."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def group_id(name: str) -> int | None:
    """A group's id on this machine, None for an unknown name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
