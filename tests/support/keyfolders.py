"""Folders of persistent keys in tests: a sealer over a known root, keys to put there, and what a fresh start reads."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent.core import algorithm
from agent.core.model import Secret
from agent.daemon.keyfile import StoredGeneration, StoredKey
from agent.daemon.keyfolder import Contents, Found, KeyFolder
from agent.daemon.privatekey import PrivateKey
from agent.sealing import Sealer
from agent.verify.signature import verifies

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEPS = ("write", "fsync", "rename", "unlink")
"""Calls of the system that change what is on the disk."""


def sealer(root: bytes = bytes(range(32)), policy: str = "keys") -> Sealer:
    return Sealer.from_tas(Secret(bytearray(root)), policy)


def stored(name: str, privates: Sequence[PrivateKey], namespace: str = "uid-1", use: str = "jws") -> StoredKey:
    generations = tuple(
        StoredGeneration(number, key.spki, AT, None if key is privates[-1] else AT + timedelta(hours=number))
        for number, key in enumerate(privates, 1)
    )
    return StoredKey(namespace, name, use, privates[0].algorithm, timedelta(days=9), 0, generations)


def put(folder: KeyFolder, name: str, *kinds: str, namespace: str = "uid-1") -> list[PrivateKey]:
    """A key with a generation for each of ``kinds`` (default: one Ed25519)."""
    privates = [PrivateKey(algorithm.find(kind)) for kind in kinds or ("Ed25519",)]
    folder.put(stored(name, privates, namespace), privates)
    return privates


def made(path: Path) -> KeyFolder:
    """A folder in use, made where it is not there."""
    path.mkdir(mode=0o700, exist_ok=True)
    folder = KeyFolder(path)
    folder.open(sealer())
    return folder


def fresh(path: Path) -> Contents:
    """What the next process would find there. Its keys must sign."""
    folder = KeyFolder(path)
    try:
        contents = folder.open(sealer())
    finally:
        folder.release()
    for found in contents.keys:
        for private, generation in zip(found.private, found.stored.generations, strict=True):
            assert verifies(private.algorithm, generation.spki, private.sign(b"data"), b"data")
    return contents


def after_a_crash(path: Path, place: Path) -> Contents:
    """The same of a copy of the folder as it is at one moment: of one that changes meanwhile another copy is made."""
    while True:
        before = _moment(path)
        with suppress(FileNotFoundError, shutil.Error):
            shutil.copytree(path, place)
            if _moment(path) == before:
                break
        shutil.rmtree(place)
    place.chmod(0o700)
    return fresh(place)


def _moment(path: Path) -> list[tuple[str, int, int]]:
    """Each file's name, inode and time of change."""
    found = []
    for one in sorted(path.iterdir()):
        with suppress(FileNotFoundError):
            status = one.stat()
            found.append((one.name, status.st_ino, status.st_ctime_ns))
    return found


def key_file(path: Path, name: str) -> Path:
    """The one file of uid-1's key."""
    (found,) = path.glob(f"uid-1@{name}@*.key")
    return found


def names(path: Path) -> list[str]:
    """What each file is, without its id."""
    return sorted(one.name.rpartition("@")[0] or one.name for one in path.iterdir())


def spkis(contents: Contents) -> dict[str, list[bytes]]:
    return {f"{one.stored.namespace}/{one.stored.name}": public(one) for one in contents.keys}


def public(found: Found) -> list[bytes]:
    return [key.spki for key in found.private]


class Steps:
    """Counts the process's STEPS; ``at`` is called instead of the one that is ``wanted``, and of ``many`` after it."""

    def __init__(self, wanted: int, at: Callable[[Callable[..., Any], str, Sequence[Any]], Any], many: int = 1) -> None:
        self.made = 0
        self._wanted, self._at, self._many = range(wanted, wanted + many), at, many

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            self.made += 1
            return self._at(real, name, args) if self.made in self._wanted else real(*args, **kwargs)

        return step

    @contextmanager
    def installed(self) -> Iterator[None]:
        kept = {name: getattr(os, name) for name in STEPS}
        for name, real in kept.items():
            setattr(os, name, self.wrap(name, real))
        try:
            yield
        finally:
            for name, real in kept.items():
                setattr(os, name, real)


def failing(wanted: int, *, many: int = 1, late: bool = False, number: int = errno.EIO) -> Steps:
    """Fails at these steps; ``late``: after they were done, so that nobody knows."""

    def at(real: Callable[..., Any], name: str, args: Sequence[Any]) -> Any:
        if late:
            real(*args)
        elif name == "write" and len(args[1]) > 1:
            real(args[0], bytes(args[1])[: len(args[1]) // 2])
        raise OSError(number, os.strerror(number))

    return Steps(wanted, at, many)
