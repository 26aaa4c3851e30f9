"""The audit log as the signer uses it (docs/audit.md): what happened to keys, who was refused, how much was signed.

Nothing here stops signing. An event is on the disk when ``event`` returns. Denials are written at once and fsynced
within a second, so that who is refused can't make the signer wait for the disk; one source's flood of them is
counted. When the log can't be written, events wait in memory, ``trouble`` says why, and key changes are refused.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.core.access import Decision, Wish
from agent.core.auditconfig import AuditConfig
from agent.core.canonical import rfc3339
from agent.core.errors import ServerError, TeeAgentError
from agent.core.statement import AuditHead
from agent.daemon import auditdraft, problem
from agent.daemon.auditcount import Counts, Flood, Hour
from agent.daemon.auditdraft import Draft, Who
from agent.daemon.auditfile import LogFile
from agent.daemon.peers import Caller
from agent.daemon.threads import in_thread_or_here

TICK_SECONDS = 1.0
RETRY_SECONDS = 10.0
"""Between two tries to write a log that can't be written, when nobody asks."""
MAX_PENDING, MAX_BATCH = 4096, 128
RESERVE = 262_144
"""Free bytes on the disk that a key change wants: its own record must fit."""
WISHED = ("key", "use", "format", "context", "audience", "secret", "persistent")
"""What of a refused wish is told, where it was given."""

Source = tuple[str, Who, str]
"""Kind of a record, its caller, and what failed."""


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class Audit:
    """One process's log. ``now`` is the guest's clock; everything may be called from any thread."""

    def __init__(self, config: AuditConfig, boot_id: str, now: Callable[[], datetime] = _now) -> None:
        self.folder: Path = config.folder
        self._file = LogFile(config.folder, config.max_bytes, config.keep_files, boot_id, now)
        self._now, self.since = now, now()
        self._lock, self._queueing = threading.RLock(), threading.Lock()
        self._pending: deque[Draft] = deque()
        self._lost = 0
        self._unsynced = False
        self._tried = 0.0
        self._trouble: ServerError | None = None
        self._used: Counts[tuple[str, Who, str, datetime]] = Counts(("key.signed.others", None, "", self.since))
        self._refused: Counts[Source] = Counts(("denied", None, ""))
        self._flood: Flood[Source] = Flood()
        self._hour, self._seen, self._found = Hour(), False, set[tuple[Any, ...]]()
        self._due, self._woken = asyncio.Event(), False
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, version: str) -> None:
        """Take the log over and go on with its chain. Raises Conflict when another process writes it; a log that
        can't be opened is ``trouble``."""
        with self._lock:
            with suppress(OSError):
                self._file.lock()
            # By ``run`` two logs that begin in the same second differ from their first records on.
            self.event("agent.started", severity="info", version=version, run=os.urandom(8).hex())

    # What happened.

    def event(self, kind: str, *, severity: str, caller: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """One record, on the disk or, with ``trouble``, in memory. Fields: text, whole numbers; no secrets.

        Raises FormatError for a kind, severity or name of a field that no record can have.
        """
        draft = self._draft(kind, severity, caller, fields)
        self._file.require(draft)
        self._add(draft, sync=True)

    def signed(self, caller: Caller, key_id: str, count: int = 1) -> None:
        """Signatures: counted by caller, key and second, and written within two seconds."""
        self.used("key.signed", caller, key_id, count)

    def used(self, kind: str, caller: Caller, what: str, count: int = 1) -> None:
        """The same of anything that is counted; ``what`` is the key's id, or the name of the root."""
        self._used.add((kind, auditdraft.who(caller), what, self._now()), count)
        self._wake()

    def denied(self, caller: Caller, wish: Wish, decision: Decision) -> None:
        """A refusal by the access policy, as agent.daemon.guard tells it."""
        who = auditdraft.who(caller)
        wished = {name: getattr(wish, name) for name in WISHED}
        about = {name: value for name, value in wished.items() if value}
        fields = {"operation": wish.operation, "rule": decision.rule, "reason": decision.reason, **about}
        self._often(("denied", who, ""), self._draft("denied", "warning", auditdraft.document(who), fields))

    def failed(self, what: str, error: TeeAgentError) -> None:
        """Something of the agent's own that failed, such as evidence for its key; repetitions are counted."""
        fields = {"what": what, "code": error.code, "message": error.message}
        self._often(("failed", None, auditdraft.text(what)), self._draft("failed", "warning", None, fields))

    def _often(self, source: Source, draft: Draft) -> None:
        if self._flood.admits(source, time.monotonic()):
            self._add(draft, sync=False)
        else:
            self._refused.add(source)
        self._wake()

    def _draft(self, kind: str, severity: str, caller: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> Draft:
        return auditdraft.draft(self._now(), kind, severity, caller, fields)

    # To the disk.

    def _add(self, draft: Draft, *, sync: bool) -> None:
        """Without ``sync`` nobody waits: what can't be written at once, flush or the next event writes."""
        self._queue(draft)
        if self._lock.acquire(blocking=sync):
            try:
                if self._trouble is None or time.monotonic() - self._tried >= TICK_SECONDS:
                    self._write(sync=sync)
            finally:
                self._lock.release()

    def _queue(self, draft: Draft, *, first: bool = False) -> None:
        with self._queueing:
            self._hour.add(draft.time, draft.severity)
            if first:
                self._pending.appendleft(draft)
            elif len(self._pending) < MAX_PENDING:
                self._pending.append(draft)
            else:
                self._lost += 1

    def _write(self, *, sync: bool) -> None:
        """All that is pending. Raises nothing: what fails is ``trouble``."""
        self._tried = time.monotonic()
        try:
            if not self._file.ready:
                self._recover()
            if self._lost:
                lost = self._lost
                self._put([Draft(self._now(), "log.lost", "alert", fields={"events": lost})])
                with self._queueing:
                    self._lost -= lost
            while waiting := tuple(self._pending)[:MAX_BATCH]:
                for _ in range(self._put(waiting)):
                    self._pending.popleft()
            if sync and self._unsynced:
                self._file.sync()
                self._unsynced = False
        except (OSError, TeeAgentError) as error:
            self._trouble = _unwritable(self.folder, error)
            self._wake()
            return
        if self._trouble:
            reason, self._trouble = self._trouble.message, None
            self._queue(Draft(self._now(), "log.resumed", "warning", fields={"reason": auditdraft.text(reason)}))
            self._write(sync=sync)

    def _put(self, drafts: Sequence[Draft]) -> int:
        self._unsynced = True
        return self._file.write(drafts)

    def _recover(self) -> None:
        self._file.lock()
        records, notes = self._file.recover()
        if not self._seen:
            self._seen = True
            with self._queueing:
                for record in records:
                    self._hour.add(record.time, record.severity)
        for note in reversed(notes):
            # Each try to recover finds the same again.
            if (found := (note.kind, *note.fields.items())) not in self._found:
                self._found.add(found)
                self._queue(note, first=True)

    def flush(self) -> None:
        """Write and fsync what is pending and what was counted; with ``trouble``, counting goes on."""
        with self._lock:
            self._write(sync=False)
            if self._trouble is None:
                for used, count in self._used.take().items():
                    self._queue(self._uses(*used, count))
                for source, count in self._refused.take().items():
                    self._queue(self._more(source, count))
                self._write(sync=True)

    def _uses(self, kind: str, who: Who, what: str, second: datetime, count: int) -> Draft:
        if not what:
            return Draft(self._now(), kind, "info", fields={"count": count})
        name = "key_id" if kind == "key.signed" else "root"
        fields = {name: auditdraft.text(what), "second": rfc3339(second), "count": count}
        severity = "warning" if kind == "data.refused" else "info"
        return Draft(self._now(), kind, severity, auditdraft.document(who), fields)

    def _more(self, source: Source, count: int) -> Draft:
        kind, who, what = source
        fields = {"what": what, "count": count} if what else {"count": count}
        return Draft(self._now(), f"{kind}.more", "warning", auditdraft.document(who), fields)

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            if self._loop:
                with suppress(RuntimeError):  # the loop is over
                    self._loop.call_soon_threadsafe(self._due.set)

    async def run(self) -> None:
        """Writes what is counted, a second after the first of it: an idle signer is not woken."""
        self._loop = asyncio.get_running_loop()
        if self._woken:
            self._due.set()
        while True:
            await self._due.wait()
            await asyncio.sleep(RETRY_SECONDS if self._trouble else TICK_SECONDS)
            self._due.clear()
            self._woken = False
            await in_thread_or_here(self.flush)

    def close(self) -> None:
        """The last counts, and nothing more; the log is anybody's."""
        with self._lock:
            self.flush()
            self._file.release()

    # How it stands.

    @property
    def trouble(self) -> ServerError | None:
        """Why key changes are refused; None where they are not."""
        return self._trouble or self._short()

    def _short(self) -> ServerError | None:
        try:
            status = os.statvfs(self.folder)
        except OSError as error:
            return _unwritable(self.folder, error)
        if status.f_bavail * status.f_frsize < RESERVE:
            return _unwritable(self.folder, OSError(0, f"less than {RESERVE} bytes are free"))
        return None

    def require_writable(self) -> None:
        """Tries again first. Raises ServerError (``server.audit``): what can't be told must not be done."""
        if self._trouble:
            with self._lock:
                self._write(sync=True)
        if trouble := self.trouble:
            raise trouble

    def head(self) -> bytes:
        """The digest of the last record, 32 bytes."""
        return self._file.head

    def anchor(self) -> AuditHead | None:
        """The last record once it and all before it are on the disk; None while the log can't be written.

        For the statement of a new key: whatever was reported before, counts included, is in the log up to there.
        """
        with self._lock:
            self.flush()
            seq, head = self._file.place
            return None if self._trouble else AuditHead(seq, head.hex())

    def summary(self) -> dict[str, Any]:
        """For the status, without waiting for the disk: ``last_hour`` counts records by severity.

        Those of the time before this process as far as they stand in the window that recovery read.
        """
        trouble, (seq, head) = self.trouble, self._file.place
        with self._queueing:
            counts = self._hour.counts(self._now())
        return {
            "seq": seq,
            "head": head.hex(),
            "since": rfc3339(self.since),
            "trouble": problem.document(trouble) if trouble else None,
            "waiting": len(self._pending) + self._lost,
            "last_hour": counts,
        }


def _unwritable(folder: Path, error: OSError | TeeAgentError) -> ServerError:
    said = error.message if isinstance(error, TeeAgentError) else error.strerror or str(error)
    return ServerError(
        f"the audit log in {folder} can't be written: {said}",
        hint="signing goes on; keys can't be changed until it can: free space, or mend the folder",
        retry_after=RETRY_SECONDS,
        code="server.audit",
    )
