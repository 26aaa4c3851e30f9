"""The folder of persistent keys: a file for each, and an index that says which files count (docs/keys.md).

A change writes a new file under a name of its own, then the index, whose renaming is the moment of the change; what
no longer counts is removed after that. So a kill leaves the key as it was before, or as it is after. The index has a
copy: one bad sector costs one key at the most, never all. agent.daemon.keyreading reads what is there at a start.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from agent.core.errors import Conflict, ServerError, TeeAgentError, VerificationError
from agent.core.statement import AuditHead
from agent.daemon import keydisk
from agent.daemon.files import FolderLock
from agent.daemon.keyfile import COPY, ID_SIZE, INDEX, LOCK, MAX_KEYS, Index, KeyName, Place, StoredKey, place
from agent.daemon.keyreading import INDEX_LABELS, PURPOSE, Contents, Found, Sealer, read_folder
from agent.daemon.privatekey import PrivateKey, sealed

__all__ = ["Contents", "Found", "KeyFolder", "Sealer"]


class KeyFolder:
    """``anchor`` gives the end of the audit log. After ``lock``, no other process has these keys."""

    def __init__(self, path: Path, anchor: Callable[[], AuditHead | None] = lambda: None) -> None:
        self.path = path
        self._anchor = anchor
        self._lock = FolderLock(path / LOCK, "has these keys", "[daemon] keys_folder")
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
            keydisk.require_private(self.path)
            self._lock.take()

    def release(self) -> None:
        """For a process that goes on living."""
        self._lock.release()

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

        Raises ServerError, VerificationError (agent.daemon.keyreading), and as lock. Then nothing has changed.
        """
        self.lock()
        with keydisk.storage(self.path):
            found = read_folder(self.path, sealer)
        self._sealer, self._index, self._unsure = sealer, found.index, found.unsure
        self._garbage = {self.path / name for name in found.garbage}
        self._begin(fresh=found.fresh)
        return found.contents

    def put(self, key: StoredKey, private: Sequence[PrivateKey]) -> int:
        """The key is on the disk as it is here, in place of what was there; the serial of this change.

        ``key.serial`` is set here. Raises ServerError: then the key counts as it did before, unless the process dies
        before ``settle`` could say so to a disk that did not answer. Raises Conflict (``conflict.limit``).
        """
        sealer = self._opened()
        if key.key not in self._index.keys and len(self._index.keys) >= MAX_KEYS:
            # An index that nobody would read must not be written.
            raise Conflict(f"{self.path}: there are {MAX_KEYS} keys already", code="conflict.limit")
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
