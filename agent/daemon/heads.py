"""Audit heads on their way to the attestation service, each in the statement of a key with its evidence.

The signer hands key documents to the fetcher, which posts them: docs/tas.md has the service's side, docs/audit.md what
it is good for. A head covers all records before it, so only the newest is worth sending: of the agent's own key each
new one, of named keys at most one in NAMED_SECONDS, and nothing waits but the last of each. No evidence is made here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from agent.core import headpost, keydoc
from agent.core.canonical import Reader, rfc3339
from agent.core.errors import Denied, FormatError, TeeAgentError
from agent.core.ports import Deadline as AnyDeadline
from agent.daemon import rpc
from agent.daemon.keys import Attested, Log
from agent.daemon.names import FETCHER, socket_path
from agent.daemon.peers import Caller
from agent.daemon.threads import in_thread
from agent.deadline import Deadline

METHOD = "head"
MAX_REQUEST = 2 * keydoc.MAX_BYTES
"""Bytes of the signer's request: a key document with its quotation marks escaped."""
POST_SECONDS = 30.0
NAMED_SECONDS = 60.0
RETRY_SECONDS, RETRY_MAX = 30.0, 3600.0
FORGET_SECONDS = 6 * 3600.0
"""After which a service that keeps no heads is asked again: it may have been replaced."""
KEPT, NOT_KEPT, REFUSED, FAILED = "kept", "not-kept", "refused", "failed"
FINAL = (Denied, FormatError)
"""What is said of this head, and would be said again. All else says something of the way to the service, which may be
mended: a deadline too, since there is a new one for each try."""

Post = Callable[[bytes, AnyDeadline], bool]
"""Sends a key document: whether the service keeps heads. Raises TransportError and its kin, Denied, ServerError."""
Tell = Callable[..., Awaitable[None]]
"""agent.daemon.journal.Reports.tell."""


@dataclass(frozen=True, slots=True)
class HeadState:
    """How it went the last time: ``heads`` is "" before the first; ``head_reason`` of a failure."""

    heads: str = ""
    head_at: str = ""
    head_reason: str = ""


class Poster:
    """The fetcher's side. ``post`` None: no service is configured."""

    def __init__(self, post: Post | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._post = post
        self._clock = clock
        self._again = 0.0
        self._one = asyncio.Lock()
        self.state = HeadState()

    async def send(self, params: dict[str, Any], _: Caller) -> dict[str, Any]:
        """An RPC: ``document``, whose outcome is ``heads``. Raises FormatError, and what Post raises."""
        document = _document(params)
        if self._post is None:
            return {"heads": ""}
        async with self._one:
            if self.state.heads != NOT_KEPT or self._clock() >= self._again:
                await self._send(self._post, document)
        return {"heads": self.state.heads}

    async def _send(self, post: Post, document: bytes) -> None:
        try:
            kept = await in_thread(lambda: post(document, Deadline(POST_SECONDS, "audit head")))
        except TeeAgentError as error:
            reason = " ".join(error.message.split())[:1000]
            self.state = HeadState(REFUSED if isinstance(error, FINAL) else FAILED, _now(), reason)
            raise
        self.state = HeadState(KEPT if kept else NOT_KEPT, _now())
        self._again = self._clock() + FORGET_SECONDS


def _document(params: dict[str, Any]) -> bytes:
    """Only what is a key document leaves, and it is public. Raises FormatError, Oversized."""
    text = Reader(params, "audit head", frozenset({"document"})).item("document")
    if not isinstance(text, str):
        raise FormatError("audit head: the document is no text", record="audit head")
    data = text.encode("utf-8", "replace")
    keydoc.decode(data)
    return data


def _now() -> str:
    return rfc3339(datetime.now(UTC))


def through_fetcher(folder: Path) -> Callable[[bytes], str]:
    """The signer's way to it: sends a key document, blocking; the outcome. Raises as rpc.call."""

    def send(document: bytes) -> str:
        deadline = Deadline(POST_SECONDS + rpc.READ_SECONDS, "audit head")
        answer = rpc.call(socket_path(folder, FETCHER), METHOD, {"document": document.decode()}, deadline=deadline)
        return Reader(answer, "audit head", frozenset({"heads"})).text("heads", 16)

    return send


class Sender:
    """The signer's side: the newest key of either kind, until the service has it. For the event loop's thread."""

    def __init__(self, send: Callable[[bytes], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._waiting: dict[str, Attested] = {}
        self._named_at = -NAMED_SECONDS
        self._due = asyncio.Event()

    def own(self, key: Attested) -> None:
        """The agent's own key is new."""
        self._put("own", key)

    def named(self, key: Attested) -> None:
        """So is a named one, or a generation of it."""
        self._put("named", key)

    def _put(self, kind: str, key: Attested) -> None:
        self._waiting[kind] = key
        self._due.set()

    async def run(self, told: Log, tell: Tell) -> None:
        """For ever. ``told`` hears of failures, ``tell`` writes into the audit log what became of a head."""
        failures = 0
        while True:
            kind, key = await self._next()
            try:
                outcome = await in_thread(partial(self._posted, key))
            except TeeAgentError as error:
                if not isinstance(error, FINAL):
                    if not failures and not error.retry:
                        told("an audit head did not reach the service", error)
                    failures += 1
                    self._waiting.setdefault(kind, key)  # a newer one says more
                    await asyncio.sleep(min(RETRY_MAX, RETRY_SECONDS * 2 ** min(failures - 1, 10)))
                    continue
                told("the service did not take an audit head", error)
                outcome = "contradicted" if error.code == headpost.CONTRADICTED else REFUSED
            failures = 0
            if outcome == KEPT:
                await tell("head.kept", "info", **_fields(key))
            elif outcome == "contradicted":
                await tell("head.contradicted", "alert", **_fields(key))

    def _posted(self, key: Attested) -> str:
        return self._send(keydoc.build(key.attachments))

    async def _next(self) -> tuple[str, Attested]:
        """What to send, once there is something and it is its time."""
        while True:
            pause = self._named_at + NAMED_SECONDS - self._clock() if "named" in self._waiting else None
            if "own" in self._waiting:
                return "own", self._waiting.pop("own")
            if pause is not None and pause <= 0:
                self._named_at = self._clock()
                return "named", self._waiting.pop("named")
            self._due.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._due.wait()


def _fields(key: Attested) -> dict[str, Any]:
    statement = key.statement
    named = {"record": statement.audit.seq, "head": statement.audit.head} if statement.audit else {}
    return {"key_id": key.attachments.key_sha256.hex(), "statement": statement.digest().hex(), **named}
