"""The files of the audit log: one writer, whole lines, a chain that goes on over crashes, full disks and rotation.

``audit.jsonl`` is written; full ones are renamed to ``audit-<seq of their first record>.jsonl``. A new file is written
beside, fsynced and renamed into place with its first record, so there is never one without. What a kill tore is moved
to ``audit-torn-<seq>-<n>.bin`` before it is cut off. Everything here raises OSError; agent.daemon.audit decides.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.core import audit
from agent.core.audittail import WINDOW, Tail
from agent.core.canonical import rfc3339
from agent.core.errors import TeeAgentError
from agent.daemon import auditdisk, files
from agent.daemon.auditdisk import CURRENT, LOCK, NEW
from agent.daemon.auditdraft import Draft
from agent.daemon.files import FolderLock

MAX_WRITE = 65_536
"""Bytes of one write at the most: a fraction of the window that recovery looks at."""
MAX_TORN = 8
"""Files of torn ends that are told at a start; a kill makes one."""


class LogFile:
    """The file in use. Nobody else may write while ``lock`` is held; ``now`` gives the guest's time."""

    def __init__(
        self, folder: Path, max_bytes: int, keep_files: int, boot_id: str, now: Callable[[], datetime]
    ) -> None:
        self._folder, self._max, self._keep = folder, max_bytes, keep_files
        self._boot_id, self._now = boot_id, now
        self._lock = FolderLock(folder / LOCK, "writes this audit log", "[audit] folder")
        self._fd = -1
        self._size = self._first = self._sure = 0
        self._doubted = False
        self._next = b""
        self.place = (-1, audit.START)

    def lock(self) -> None:
        """Held until release. Raises Conflict when another process writes this log."""
        self._lock.take()

    @property
    def seq(self) -> int:
        """Of the last record, -1 where there is none; ``place`` has both at once, for other threads."""
        return self.place[0]

    @property
    def head(self) -> bytes:
        """Its digest."""
        return self.place[1]

    @property
    def ready(self) -> bool:
        """False before recover, and after an error that left the file's end unknown."""
        return self._fd >= 0

    def recover(self) -> tuple[tuple[audit.Record, ...], list[Draft]]:
        """Open what is there, or begin. Gives the records at its end, and what there is to tell about it."""
        self.close()
        (self._folder / NEW).unlink(missing_ok=True)
        path = self._folder / CURRENT
        if not path.exists():
            return (), self._continue()
        fd = os.open(path, auditdisk.APPEND)
        try:
            found, size = auditdisk.read_tail(fd)
            if found.last is not None:
                notes = self._aside(fd, found, size)
                size -= len(found.torn)
                if self._doubted:
                    auditdisk.write_again(path, min(self._sure, size), size)
                self._first = auditdisk.first_seq(fd, found)
                self._fd, self._size, self._sure, self._doubted = os.dup(fd), size, size, False
                self.place = (found.last.seq, found.head)
                return found.records, notes
        finally:
            os.close(fd)
        name = auditdisk.free(self._folder, "audit-damaged", "jsonl")
        path.rename(name)
        files.sync_folder(self._folder)
        return (), [*self._continue(), self._note("log.damaged", "alert", file=name.name)]

    def _note(self, kind: str, severity: str, **fields: Any) -> Draft:
        return Draft(self._now(), kind, severity, fields=fields)

    def _continue(self) -> list[Draft]:
        """A new file behind the newest full one that has a record."""
        notes: list[Draft] = []
        self.place, reason = (-1, audit.START), "first"
        for path in reversed(auditdisk.full_files(self._folder)):
            fd = os.open(path, files.READ)
            try:
                found, _ = auditdisk.read_tail(fd)
            finally:
                os.close(fd)
            if found.last is None or found.torn:
                notes.append(self._note("log.damaged", "alert", file=path.name))
            if found.last is not None:
                self.place, reason = (found.last.seq, found.head), "continued"
                break
        self._prepare(reason)
        self._install()
        return notes

    def _aside(self, fd: int, found: Tail, size: int) -> list[Draft]:
        """Cut off what is torn, once it is kept. What a kill kept from being told is told now."""
        stem = f"audit-torn-{found.last.seq if found.last else 0:016d}"
        if found.torn:
            files.write_new(auditdisk.free(self._folder, stem, "bin"), found.torn)
            files.sync_folder(self._folder)
            os.ftruncate(fd, size - len(found.torn))
            os.fsync(fd)
        # The record about it comes next in the chain: as long as the number is still the last one's, it is missing.
        notes = [self._torn(path) for path in sorted(self._folder.glob(f"{stem}-*.bin"))[:MAX_TORN]]
        if found.damage:
            notes.append(self._note("log.damaged", "alert", damage=found.damage))
        return notes

    def _torn(self, path: Path) -> Draft:
        try:
            data = files.read(path, WINDOW)
        except (OSError, TeeAgentError):  # none that was made here
            return self._note("log.damaged", "alert", file=path.name)
        severity = "alert" if b"\n" in data else "warning"
        sha256 = hashlib.sha256(data).hexdigest()
        return self._note("log.torn", severity, file=path.name, bytes=len(data), sha256=sha256)

    def write(self, drafts: Sequence[Draft]) -> int:
        """Append the first of ``drafts``: as many as one write may have; how many. Rotates before. Not synced."""
        if self._size >= self._max:
            self._rotate()
        lines: list[bytes] = []
        head, size = self.head, 0
        for number, draft in enumerate(drafts, 1):
            line = self._line(draft, self.seq + number, head)
            if lines and size + len(line) >= MAX_WRITE:
                break
            lines.append(line)
            head, size = audit.digest(line), size + len(line) + 1
        self._append(b"\n".join(lines) + b"\n")
        self.place = (self.seq + len(lines), head)
        return len(lines)

    def require(self, draft: Draft) -> None:
        """Raises FormatError for a draft that can't become a record."""
        self._line(draft, 0, audit.START)

    def _line(self, draft: Draft, seq: int, prev: bytes) -> bytes:
        document = {
            "seq": seq,
            "time": rfc3339(draft.time),
            "boot_id": self._boot_id,
            "kind": draft.kind,
            "severity": draft.severity,
            "caller": draft.caller,
            "fields": dict(draft.fields),
        }
        return audit.record(prev, document)

    def _append(self, data: bytes) -> None:
        try:
            files.write(self._fd, data)
        except OSError:
            # A full disk takes a part: what was written of it must not stay.
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                self.close()
            raise
        self._size += len(data)

    def sync(self) -> None:
        """What was written is on the disk. After an error nobody knows what is: recover looks, and writes it again."""
        try:
            os.fsync(self._fd)
        except OSError:
            self._doubted = True
            self.close()
            raise
        self._sure = self._size

    def _rotate(self) -> None:
        """Raises OSError; then recover sees to it, from whatever step."""
        self.sync()
        try:
            self._prepare("rotated")
            (self._folder / CURRENT).rename(self._folder / f"audit-{self._first:016d}.jsonl")
            # Were only the next name on the disk after a loss of power, a whole file would be gone.
            files.sync_folder(self._folder)
            self._install()
        except OSError:
            self.close()
            raise
        for path in auditdisk.full_files(self._folder)[: -self._keep]:
            path.unlink(missing_ok=True)

    def _prepare(self, reason: str) -> None:
        """The next file beside the one in use, with its first record."""
        self._next = self._line(
            self._note(audit.FILE, "info", format=audit.TYPE, reason=reason), self.seq + 1, self.head
        )
        files.write_new(self._folder / NEW, self._next + b"\n")

    def _install(self) -> None:
        (self._folder / NEW).rename(self._folder / CURRENT)
        files.sync_folder(self._folder)
        self.close()
        self._fd = os.open(self._folder / CURRENT, auditdisk.APPEND)
        self.place = (self.seq + 1, audit.digest(self._next))
        self._first, self._doubted = self.seq, False
        self._size = self._sure = len(self._next) + 1

    def close(self) -> None:
        """The file; the lock stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def release(self) -> None:
        """The lock as well: for a process that goes on living."""
        self.close()
        self._lock.release()
