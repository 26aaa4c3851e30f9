"""The folder of persistent keys: a file for each, and an index that says which files count (docs/keys.md).

A change writes a new file under a name of its own, then the index, whose renaming is the moment of the change; what
no longer counts is removed after that. So a kill leaves the key as it was before, or as it is after. The index has a
copy: one bad sector costs one key at the most, never all. Everything read here may have been written by the host:
what does not unseal as what it claims to be is told and left alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from agent.core.errors import FormatError, Rollback, ServerError, TeeAgentError, VerificationError
from agent.core.statement import AuditHead
from agent.daemon import keydisk
from agent.daemon.keyfile import (
    COPY,
    ID_SIZE,
    INDEX,
    LOCK,
    MAX_FILE,
    MAX_INDEX,
    Index,
    KeyName,
    Place,
    StoredKey,
    place,
    read_index,
    read_key,
    unfinished,
)
from agent.daemon.privatekey import PrivateKey, sealed, wipe

PURPOSE, INDEX_LABELS = "key", ("index",)


class Sealer(Protocol):
    """agent.sealing.Sealer."""

    def seal(self, purpose: str, labels: tuple[str, ...], plaintext: bytes | bytearray) -> bytes: ...

    def unseal(self, purpose: str, labels: tuple[str, ...], blob: bytes) -> bytearray: ...


@dataclass(frozen=True, slots=True)
class Found:
    """A key as its file has it, with a private key for each generation."""

    stored: StoredKey
    private: tuple[PrivateKey, ...]


@dataclass(slots=True)
class Contents:
    """What a folder had: usable keys, why others are not, and what else there is to tell."""

    serial: int = 0
    audit: AuditHead | None = None
    keys: list[Found] = field(default_factory=list)
    broken: dict[KeyName, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    removed: int = 0
    """Files that did not count: a kill had kept them from being removed, or somebody put them there."""


class KeyFolder:
    """``anchor`` gives the end of the audit log. After ``lock``, no other process has these keys."""

    def __init__(self, path: Path, anchor: Callable[[], AuditHead | None] = lambda: None) -> None:
        self.path = path
        self._anchor = anchor
        self._lock = -1
        self._change = threading.RLock()
        self._sealer: Sealer | None = None
        self._index = Index(0, None, {})
        self._garbage: set[Path] = set()
        self._unsure = False
        self.trouble: TeeAgentError | None = None
        """Why the disk may not be as memory has it: a change failed, or left something behind. ``settle`` mends it."""

    @property
    def serial(self) -> int:
        """How many changes there were."""
        return self._index.serial

    def lock(self) -> None:
        """Held as long as the process lives. Raises Conflict, ConfigError, ServerError."""
        with keydisk.storage(self.path):
            if self._lock < 0:
                self._lock = keydisk.lock(self.path)

    def release(self) -> None:
        """For a process that goes on living."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def names(self) -> frozenset[KeyName]:
        """Whose files there are, by what the files are called; none where there is no folder. Raises ServerError,
        Oversized."""
        with keydisk.storage(self.path):
            try:
                return frozenset(where.key for name in keydisk.names(self.path) if (where := place(name)))
            except FileNotFoundError:
                return frozenset()

    def open(self, sealer: Sealer) -> Contents:
        """All that is there, read. A folder without anything gets its first index.

        Raises ServerError, VerificationError where no index can be believed (``verify.rollback``: it is older than a
        file), and as lock. Then nothing has changed.
        """
        self.lock()
        with keydisk.storage(self.path):
            names = keydisk.names(self.path)
            files = {name: where for name in names if (where := place(name))}
            read = [self._read_index(sealer, name) for name in (INDEX, COPY)]
            index = self._newest(read, fresh=not files)
        contents = Contents(index.serial, index.audit)
        contents.notes += [one for one in read if isinstance(one, str)]
        listed = {where.file: where for where in index.places()}
        self._read_listed(sealer, listed.values(), contents)
        unlisted = [where for name, where in files.items() if name not in listed]
        garbage = [name for name in names if unfinished(name)] + self._unlisted(sealer, unlisted, contents)
        strange = set(names) - files.keys() - {INDEX, COPY, LOCK, *garbage}
        contents.notes += [f"{name!a} is no file of this agent's" for name in sorted(strange)[:8]]
        self._sealer, self._index = sealer, index
        self._garbage, contents.removed = {self.path / name for name in garbage}, len(garbage)
        self._unsure = read != [index, index]
        self._begin(fresh=read == [None, None])
        return contents

    def put(self, key: StoredKey, private: Sequence[PrivateKey]) -> int:
        """The key is on the disk as it is here, in place of what was there; the serial of this change.

        ``key.serial`` is set here. Raises ServerError: then the key counts as it did before, unless the process dies
        before ``settle`` could say so to a disk that did not answer.
        """
        sealer = self._opened()
        where = Place(key.namespace, key.name, os.urandom(ID_SIZE))
        path = self.path / where.file
        with self._changing():
            head = replace(key, serial=self.serial + 1).head()
            data = sealed(head, private, lambda plain: sealer.seal(PURPOSE, where.labels, plain))
            self._garbage.add(path)
            keydisk.replace(path, data)
            self._commit(sealer, {**self._index.keys, key.key: where.id})
            return self.serial

    def remove(self, key: KeyName) -> int:
        """The key counts no more, and its file is gone; the serial of this change. Raises as put."""
        sealer = self._opened()
        with self._changing():
            if key in self._index.keys:
                self._commit(sealer, {name: file_id for name, file_id in self._index.keys.items() if name != key})
            return self.serial

    def settle(self) -> None:
        """Once more what could not be done after the last change: the index, its copy, and removals.

        Raises ServerError, which is ``trouble``.
        """
        sealer = self._opened()
        with self._changing():
            if self._unsure:
                self._write_index(sealer)
            keydisk.replace(self.path / COPY, self._sealed_index(sealer))
            keydisk.remove(sorted(self._garbage))
        self._garbage.clear()
        self.trouble = None

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time; what the disk says against it is ``trouble``."""
        try:
            with self._change, keydisk.storage(self.path):
                yield
        except ServerError as error:
            self.trouble = error
            raise

    def _opened(self) -> Sealer:
        if self._sealer is None:
            raise VerificationError(f"{self.path}: the index of the keys was not read", code="verify.sealed")
        return self._sealer

    def _begin(self, *, fresh: bool) -> None:
        """What there is to mend after reading. Only a new folder must be written to be used at all."""
        if not self._unsure and not self._garbage:
            return
        try:
            self.settle()
        except TeeAgentError:
            if fresh:
                self._sealer = None
                raise

    def _commit(self, sealer: Sealer, keys: Mapping[KeyName, bytes]) -> None:
        """The renamed index is the change. What comes after it may fail: ``settle`` does it again."""
        before = self._index
        self._index = Index(before.serial + 1, self._anchor(), keys)
        try:
            self._write_index(sealer)
        except OSError:
            # Whether the new one has its name on the disk, nobody knows: the old one is written again before any
            # file goes that one of them lists.
            self._index, self._unsure = before, True
            raise
        now = {self.path / where.file for where in self._index.places()}
        self._garbage = (self._garbage | {self.path / where.file for where in before.places()}) - now
        with suppress(TeeAgentError):
            self.settle()

    def _write_index(self, sealer: Sealer) -> None:
        keydisk.replace(self.path / INDEX, self._sealed_index(sealer))
        self._unsure = False

    def _sealed_index(self, sealer: Sealer) -> bytes:
        return sealer.seal(PURPOSE, INDEX_LABELS, self._index.encode())

    def _read_index(self, sealer: Sealer, name: str) -> Index | str | None:
        """None where there is none; why it can't be believed, as text."""
        try:
            data = keydisk.read(self.path / name, MAX_INDEX)
            return read_index(bytes(sealer.unseal(PURPOSE, INDEX_LABELS, data)))
        except FileNotFoundError:
            return None
        except (OSError, TeeAgentError) as error:
            return f"{name}: {_said(error)}"

    def _newest(self, read: Sequence[Index | str | None], *, fresh: bool) -> Index:
        found = [index for index in read if isinstance(index, Index)]
        if found:
            return max(found, key=lambda index: index.serial)
        why = "; ".join(one for one in read if isinstance(one, str))
        if fresh and not why:
            return Index(0, None, {})
        raise VerificationError(
            f"{self.path}: the index of the keys can't be used: {why or 'it is missing'}",
            hint="nothing was deleted: put the whole folder back from a backup, or move it away to begin anew",
            code="verify.sealed",
        )

    def _read_listed(self, sealer: Sealer, listed: Iterable[Place], contents: Contents) -> None:
        for where in listed:
            try:
                found = self._read(sealer, where)
                if found.stored.serial > contents.serial:
                    raise FormatError("newer than the index that lists it", record="key file")
                contents.keys.append(found)
            except FileNotFoundError:
                contents.broken[where.key] = "its file is missing"
            except (OSError, TeeAgentError) as error:
                contents.broken[where.key] = _said(error)

    def _unlisted(self, sealer: Sealer, unlisted: Iterable[Place], contents: Contents) -> list[str]:
        """Names of files that never counted, or no longer do. Raises Rollback where the index has missed a change."""
        garbage: list[str] = []
        for where in unlisted:
            try:
                serial = self._read(sealer, where).stored.serial
            except (OSError, TeeAgentError) as error:
                contents.notes.append(f"{where.file}: not in the index, and left alone: {_said(error)}")
                continue
            if serial > contents.serial + 1:
                raise Rollback(
                    f"{self.path}: the index of the keys is older than {where.file}: it was put back",
                    hint="nothing was deleted: put the whole folder back from one backup",
                )
            if where.key in contents.broken:
                contents.notes.append(f"{where.file}: not in the index, and left alone: it may be a copy of that key")
            else:
                garbage.append(where.file)
        return garbage

    def _read(self, sealer: Sealer, where: Place) -> Found:
        """Raises OSError, and TeeAgentError for what is not that key."""
        plain = sealer.unseal(PURPOSE, where.labels, keydisk.read(self.path / where.file, MAX_FILE))
        try:
            with memoryview(plain) as view:
                stored, secrets = read_key(view, where)
                private = tuple(PrivateKey(stored.algorithm, secret) for secret in secrets)
        finally:
            wipe(plain)
        if [key.spki for key in private] != [one.spki for one in stored.generations]:
            raise FormatError("a private key is not that of its public key", record="key file")
        return Found(stored, private)


def _said(error: OSError | TeeAgentError) -> str:
    return error.message if isinstance(error, TeeAgentError) else error.strerror or str(error)
