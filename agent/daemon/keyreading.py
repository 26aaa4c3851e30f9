"""What the folder of persistent keys has, as a start finds it: which index counts, which keys can be used, and what
a kill, a disk or the host left there (docs/keys.md).

Everything may have been written by the host: what does not unseal as what it claims to be is told and left alone.
Nothing here changes the disk.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.core.errors import FormatError, Rollback, TeeAgentError, VerificationError
from agent.core.statement import AuditHead
from agent.daemon import files, keydisk
from agent.daemon.keyfile import (
    COPY,
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
from agent.daemon.privatekey import PrivateKey, wipe

PURPOSE, INDEX_LABELS = "key", ("index",)
MAX_NOTES = 16
"""The rest is a number: the host may put as many files there as it likes."""
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say nothing about the file: it may open a moment later."""


class Sealer(Protocol):
    """agent.sealing.Sealer. ``kind`` is what a statement says of keys that are sealed under this root."""

    @property
    def kind(self) -> str: ...

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


@dataclass(frozen=True, slots=True)
class Reading:
    """``contents``, and for who goes on from there: the index that counts, the files that don't.

    ``unsure``: index and copy are not both that one. ``fresh``: there was none, nor any key's file.
    """

    contents: Contents
    index: Index
    garbage: frozenset[str]
    unsure: bool
    fresh: bool


def read_folder(folder: Path, sealer: Sealer) -> Reading:
    """All that is there. Raises OSError; VerificationError where no index can be believed (``verify.rollback``: it is
    older than a file)."""
    return _Reader(folder, sealer).read()


class _Reader:
    def __init__(self, folder: Path, sealer: Sealer) -> None:
        self._folder, self._sealer = folder, sealer
        self._contents = Contents()
        self._damage: list[str] = []
        """Why an index can't be read that may be the newer one."""

    def read(self) -> Reading:
        names = keydisk.names(self._folder)
        places = {name: where for name in names if (where := place(name))}
        read = [self._index(name) for name in (INDEX, COPY)]
        index = self._newest(read, fresh=not places)
        contents = self._contents
        contents.serial, contents.audit = index.serial, index.audit
        contents.notes += [one for one in read if isinstance(one, str)]
        # Never a kill's doing: the copy follows the index.
        self._damage = [*contents.notes, *(["index: missing"] if read[0] is None else [])]
        listed = {where.file for where in index.places()}
        self._listed(index.places())
        garbage = {name for name in names if unfinished(name)}
        garbage |= self._unlisted({name: where for name, where in places.items() if name not in listed})
        strange = set(names) - places.keys() - {INDEX, COPY, LOCK} - garbage
        contents.notes += [f"{name!a} is no file of this agent's" for name in sorted(strange)]
        if more := contents.notes[MAX_NOTES:]:
            contents.notes[MAX_NOTES:] = [f"and {len(more)} more"]
        contents.removed = len(garbage)
        return Reading(contents, index, frozenset(garbage), read != [index, index], read == [None, None])

    def _index(self, name: str) -> Index | str | None:
        """None where there is none; why it can't be believed, as text."""
        try:
            data = files.read(self._folder / name, MAX_INDEX)
            return read_index(bytes(self._sealer.unseal(PURPOSE, INDEX_LABELS, data)))
        except FileNotFoundError:
            return None
        except (OSError, TeeAgentError) as error:
            return f"{name}: {_fault(error)}"

    def _newest(self, read: Sequence[Index | str | None], *, fresh: bool) -> Index:
        found = [index for index in read if isinstance(index, Index)]
        if found:
            return max(found, key=lambda index: index.serial)
        why = "; ".join(one for one in read if isinstance(one, str))
        if fresh and not why:
            return Index(0, None, {})
        raise VerificationError(
            f"{self._folder}: the index of the keys can't be used: {why or 'it is missing'}",
            hint="nothing was deleted: put the whole folder back from a backup, or move it away to begin anew",
            code="verify.sealed",
        )

    def _listed(self, listed: Iterable[Place]) -> None:
        contents = self._contents
        for where in listed:
            try:
                found = self._key(where)
                if found.stored.serial > contents.serial:
                    raise FormatError("newer than the index that lists it", record="key file")
                contents.keys.append(found)
            except FileNotFoundError:
                contents.broken[where.key] = "its file is missing"
            except (OSError, TeeAgentError) as error:
                contents.broken[where.key] = _fault(error)

    def _unlisted(self, unlisted: Mapping[str, Place]) -> set[str]:
        """Those that never counted, or no longer do. Raises as _require_known."""
        garbage: set[str] = set()
        for name, where in unlisted.items():
            try:
                serial = self._key(where).stored.serial
            except (OSError, TeeAgentError) as error:
                self._contents.notes.append(f"{name}: not in the index, and left alone: {_fault(error)}")
                continue
            self._require_known(name, serial)
            if where.key in self._contents.broken:
                note = f"{name}: not in the index, and left alone: it may be a copy of that key"
                self._contents.notes.append(note)
            else:
                garbage.add(name)
        return garbage

    def _require_known(self, name: str, serial: int) -> None:
        """Raises Rollback, VerificationError where the index that is left has missed the change of this file."""
        if serial > self._contents.serial + 1:
            raise Rollback(
                f"{self._folder}: the index of the keys is older than {name}: it was put back",
                hint="nothing was deleted: put the whole folder back from one backup",
            )
        if serial > self._contents.serial and self._damage:
            # A kill before the index was renamed leaves such a file, but no damage: it may be a key's only one.
            raise VerificationError(
                f"{self._folder}: {'; '.join(self._damage)}; and the one that is left may not know {name}",
                hint="nothing was deleted: put the whole folder back from a backup, or move that file away",
                code="verify.sealed",
            )

    def _key(self, where: Place) -> Found:
        """Raises OSError, and TeeAgentError for what is not that key."""
        plain = self._sealer.unseal(PURPOSE, where.labels, files.read(self._folder / where.file, MAX_FILE))
        try:
            with memoryview(plain) as view:
                stored, secrets = read_key(view, where)
                private = tuple(PrivateKey(stored.algorithm, secret) for secret in secrets)
        finally:
            wipe(plain)
        if [key.spki for key in private] != [one.spki for one in stored.generations]:
            raise FormatError("a private key is not that of its public key", record="key file")
        return Found(stored, private)


def _fault(error: OSError | TeeAgentError) -> str:
    """What is wrong with a file. Raises ``error`` itself where it is none of the file's."""
    if isinstance(error, TeeAgentError):
        return error.message
    if error.errno in _NO_ROOM:
        raise error
    return error.strerror or str(error)
