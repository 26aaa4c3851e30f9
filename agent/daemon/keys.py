"""The agent's own key: made here, bound into evidence, renewed before it ends, never stored (DESIGN.md, section 5).

A key exists as soon as the process does; its evidence comes when the quoter has it. Bundles carry their own key and
evidence, so a key that was replaced is simply forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent import __version__
from agent.core.binding import Scope
from agent.core.bundle import ALGORITHM, USE, Attachments
from agent.core.errors import ServerError, TeeAgentError
from agent.core.model import Endorsements, Evidence
from agent.core.statement import MEMORY, AuditHead, Statement, now_in_seconds
from agent.daemon import problem
from agent.daemon.budget import Budget, Turn
from agent.daemon.threads import in_thread
from agent.deadline import Deadline
from agent.quoter import Quotes
from agent.verify.tcb import tcb_of

RENEW_AT = 0.8
"""Part of its life after which a key is replaced."""
RETRY_SECONDS, RETRY_MAX = 0.2, 60.0
WAIT_SECONDS = 30.0
"""How long a request waits for a key that has no evidence yet."""
OWNER = "agent"

Complete = Callable[[Evidence], tuple[bytes, Endorsements]]
"""The evidence as a bundle carries it: the blob without padding, and what the vendor says. Raises TeeAgentError."""
Log = Callable[[str, TeeAgentError], None]


@dataclass(frozen=True)
class Attested:
    """A public key and its statement (``attachments``) with evidence that binds both: made when, asked of whom."""

    attachments: Attachments
    evidence_at: datetime
    provider: str

    @property
    def statement(self) -> Statement:
        return self.attachments.statement

    @property
    def persistent(self) -> bool:
        """Whether the private key is on the disk, too."""
        return self.statement.storage != MEMORY

    @cached_property
    def tcb(self) -> bytes:
        """That of the evidence (agent.verify.tcb)."""
        return tcb_of(self.attachments.tee, self.attachments.blob)

    def valid(self, at: datetime) -> bool:
        """Whether the statement is in force: by the calendar, which goes on while the machine sleeps."""
        return self.statement.created <= at < self.statement.expires


@dataclass(frozen=True)
class AttestedKey(Attested):
    """The same with the private half, which has no repr of its bytes."""

    private: Ed25519PrivateKey

    def sign(self, data: bytes) -> bytes:
        """The signature over ``data``, 64 bytes."""
        return self.private.sign(data)


@dataclass(frozen=True, slots=True)
class Terms:
    """What every key of this signer has in common."""

    scope: Scope
    lifetime: timedelta
    quote_seconds: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be bound: whose key for what, where it is kept (``storage``, agent.core.statement), and when it ends
    before its statement would (None: never)."""

    algorithm: str
    use: str
    spki: bytes
    owner: str
    storage: str
    ends: datetime | None = None


def utc_now() -> datetime:
    """The calendar's time."""
    return datetime.now(UTC)


class Attester:
    """Gets evidence for keys. ``tas_nonce`` gives the service's newest nonce, or None; ``audit_head`` the end of the
    audit log once all of it is on the disk, or None; ``now`` the calendar's time. Who asks has a turn of ``budget``."""

    def __init__(
        self,
        terms: Terms,
        quotes: Quotes,
        complete: Complete,
        tas_nonce: Callable[[], str | None],
        audit_head: Callable[[], AuditHead | None],
        *,
        now: Callable[[], datetime] = utc_now,
        budget: Budget | None = None,
    ) -> None:
        self.terms = terms
        self.now = now
        self.budget = budget or Budget()
        self._quotes = quotes
        self._complete = complete
        self._tas_nonce = tas_nonce
        self._audit_head = audit_head

    def attest(self, wanted: Wanted) -> Attested:
        """A new statement from now on, and evidence for it; blocks. Raises what keeps evidence from being made."""
        statement = self._statement(wanted, now_in_seconds(self.now()))
        deadline = Deadline(self.terms.quote_seconds, "evidence for a signing key")
        evidence = self._quotes.signing_key(
            wanted.algorithm, wanted.use, wanted.spki, statement.digest(), deadline=deadline
        )
        attachments = Attachments(evidence.tee, *self._complete(evidence), wanted.spki, statement)
        return Attested(attachments, self.now(), evidence.provider)

    def _statement(self, wanted: Wanted, at: datetime) -> Statement:
        ends = at + self.terms.lifetime
        return Statement(
            use=wanted.use,
            algorithm=wanted.algorithm,
            created=at,
            expires=min(ends, wanted.ends) if wanted.ends else ends,
            owner=wanted.owner,
            audience=self.terms.scope.audience,
            storage=wanted.storage,
            boot_id=self.terms.scope.boot_id,
            time_source="guest",
            tas_nonce=self._tas_nonce(),
            agent_version=__version__,
            audit=self._audit_head(),
        )


class KeyRing:
    """Holds one attested key and sees to the next."""

    def __init__(self, attester: Attester) -> None:
        self.terms = attester.terms
        self.attester = attester
        self._next = Ed25519PrivateKey.generate()
        self._tried = asyncio.Event()
        self._renew = asyncio.Event()
        self._current: AttestedKey | None = None
        self.trouble: TeeAgentError | None = None

    @property
    def held(self) -> AttestedKey | None:
        """The key in use, whether or not it is still valid."""
        return self._current

    def renew(self) -> None:
        """Make a new key now, not when this one comes to its age."""
        self._renew.set()

    async def current(self) -> AttestedKey:
        """A valid key; waits for the first attempt to make one. Raises the reason why there is none."""
        if not self._is_valid() and not self.trouble:
            # The timer below sleeps with the machine; the calendar doesn't.
            self._tried.clear()
            self.renew()
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._tried.wait()
        if self._current and self._is_valid():
            return self._current
        if self.trouble:
            raise problem.exception(problem.document(self.trouble))
        raise ServerError("the key has no evidence yet", retry_after=5.0)

    def is_current(self, key: AttestedKey) -> bool:
        """Whether ``current`` would give just this one, at once."""
        return self._current is key and self._is_valid()

    def _is_valid(self) -> bool:
        return self._current is not None and self._current.valid(datetime.now(UTC))

    async def run(self, log: Log, made: Callable[[AttestedKey], None] = lambda _: None) -> None:
        """Attest, wait, replace: for ever. ``made`` is told of each key."""
        failures = 0
        while True:
            try:
                async with self.attester.budget.turn(Turn.OWN):
                    self._current = await in_thread(self._attest)
            except TeeAgentError as error:
                self.trouble, failures = error, failures + 1
                log("no evidence for the key", error)
                self._tried.set()
                await asyncio.sleep(min(RETRY_MAX, RETRY_SECONDS * 2 ** min(failures - 1, 10)))
                continue
            self.trouble, failures = None, 0
            made(self._current)
            self._renew.clear()
            self._tried.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.terms.lifetime.total_seconds() * RENEW_AT):
                    await self._renew.wait()
            self._next = Ed25519PrivateKey.generate()

    def _attest(self) -> AttestedKey:
        private = self._next
        spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        made = self.attester.attest(Wanted(ALGORITHM, USE, spki, OWNER, MEMORY))
        return AttestedKey(made.attachments, made.evidence_at, made.provider, private)


def quoted(key: AttestedKey, evidence: Evidence, complete: Complete) -> Attachments:
    """The key's attachments under other evidence: that of a batch of challenges."""
    return Attachments(evidence.tee, *complete(evidence), key.attachments.spki, key.statement)
