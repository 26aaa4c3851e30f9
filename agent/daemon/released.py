"""What the attestation service releases to this process: the root of sealed data, and secrets for applications.

Each release has a wrapping key of its own, made here and announced to the quoter; the fetcher gets its public half
and brings back what only this process can open. The root is kept for the process's life, secrets for applications
are not kept at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from agent.core.backoff import Backoff
from agent.core.config import Config
from agent.core.errors import ConfigError, Denied, SecretRefused, TeeAgentError, UsageError
from agent.core.exchange import Wrapped
from agent.core.model import Secret
from agent.core.ports import Deadline as AnyDeadline
from agent.core.sealconfig import RESERVED, releases
from agent.daemon import problem
from agent.daemon.allowance import TOTAL, Allowance
from agent.daemon.names import FETCHER, QUOTER, socket_path
from agent.daemon.remote import RemoteQuoter, RemoteReleases
from agent.daemon.threads import in_thread
from agent.deadline import Deadline
from agent.retry import CHANCE
from agent.sealing import Sealer
from agent.unseal import WrappingKey

KEYS_AT_ONCE = 2
"""Wrapping keys that are made at a time: each keeps a processor busy."""
SPARE_SECONDS = 5.0
"""For the fetcher to say itself that the time is over, and why."""
PAUSES = Backoff(base=2.0, cap=60.0)
"""After a failure to get the root: until then, who needs it is told why it failed."""


class Told(Protocol):
    """agent.daemon.journal.Reports, as far as it hears of the root."""

    def opened(self, root_id: str, *, added_root: bool) -> None: ...

    def failed(self, what: str, error: TeeAgentError) -> None: ...


class Releasing(Protocol):
    """agent.daemon.remote.RemoteReleases."""

    def release(self, what: str, wrapping_key: bytes, *, deadline: AnyDeadline) -> Wrapped: ...


class Quoting(Protocol):
    """What of agent.daemon.remote.RemoteQuoter it takes."""

    def announce(self, wrapping_key: bytes, *, deadline: AnyDeadline) -> None: ...

    def derived_key(self, *, deadline: AnyDeadline) -> Secret: ...


@dataclass(frozen=True, slots=True)
class Released:
    """A secret. ``added_root``: the service decided under a root of trust that is not a vendor's."""

    secret: Secret
    added_root: bool


class WrappingKeys:
    """One is made ahead, in a thread: it takes up to a second, and whoever asks should not wait for it."""

    def __init__(self) -> None:
        self._next: asyncio.Task[WrappingKey] | None = None
        self._places = asyncio.Semaphore(KEYS_AT_ONCE)

    async def take(self) -> WrappingKey:
        """A key that nobody else gets."""
        task, self._next = self._next or self._made(), None
        key = await task
        if self._next is None:
            self._next = self._made()
        return key

    def _made(self) -> asyncio.Task[WrappingKey]:
        return asyncio.create_task(in_thread(WrappingKey, self._places))


class Source:
    """Gets one secret at a time, in a thread. ``seconds`` are for one release, all retries included."""

    def __init__(self, releasing: Releasing, quoting: Quoting, seconds: float, quote_seconds: float) -> None:
        self._releasing, self._quoting = releasing, quoting
        self._seconds, self._quote_seconds = seconds, quote_seconds
        self._keys = WrappingKeys()
        self._places = asyncio.Semaphore(TOTAL.places)

    async def released(self, what: str) -> Released:
        """Raises SecretError (SecretRefused where the service said no), TransportError, DeadlineExceeded..."""
        key = await self._keys.take()
        # Who asks and leaves has no place (agent.daemon.allowance) any more, but a thread. The root waits for nobody.
        return await _asked(lambda: self._release(what, key), None if what == RESERVED else self._places)

    def _release(self, what: str, key: WrappingKey) -> Released:
        deadline = Deadline(self._seconds + SPARE_SECONDS, "secret from the attestation service")
        self._quoting.announce(key.public_der, deadline=deadline)
        wrapped = self._releasing.release(what, key.public_der, deadline=deadline)
        return Released(key.unseal(wrapped), wrapped.added_root)

    async def derived(self) -> Released:
        """The chip's own key for this guest. Raises FirmwareError, PlatformError, SecretError, TransportError..."""
        deadline = Deadline(2 * self._quote_seconds, "derived key")
        return await _asked(lambda: Released(self._quoting.derived_key(deadline=deadline), added_root=False))


async def _asked(work: Callable[[], Released], places: asyncio.Semaphore | None = None) -> Released:
    """In a thread. Denied is this machine then, not the caller, who must not read it as the policy's word."""
    try:
        return await in_thread(work, places)
    except Denied as error:
        message = f"not released to this machine: {error.message}"
        raise SecretRefused(message, hint=error.hint) from error


class Roots:
    """For one event loop. ``told`` hears when the root is there, and why not; ``clock`` counts seconds."""

    def __init__(self, config: Config, source: Source, told: Told, clock: Callable[[], float] = time.monotonic) -> None:
        self.kind = config.sealing.root
        self._policy_id = config.sealing.policy_id or ""
        self._names = releases(config.sealing, config.secrets).keys() - {RESERVED}
        self._source, self._told, self._clock = source, told, clock
        self._allowance = Allowance()
        self._sealer: Sealer | None = None
        self._opening: asyncio.Task[Sealer] | None = None
        self._failures, self._again_at = 0, 0.0
        self.trouble: TeeAgentError | None = None
        """Why the root is not there; None where nobody asked, too."""

    @classmethod
    def configured(cls, config: Config, told: Told) -> Roots:
        """On the sockets of the other processes."""
        folder, seconds = config.daemon.runtime_dir, config.tas.deadline_seconds if config.tas else 0.0
        quoting, releasing = RemoteQuoter(socket_path(folder, QUOTER)), RemoteReleases(socket_path(folder, FETCHER))
        return cls(config, Source(releasing, quoting, seconds, config.evidence.quote_seconds), told)

    @property
    def root(self) -> Callable[[], Awaitable[Sealer]] | None:
        """``sealer``, where the configuration has a root."""
        return None if self.kind == "none" else self.sealer

    @property
    def names(self) -> tuple[str, ...]:
        """Of secrets for applications."""
        return tuple(sorted(self._names))

    @property
    def root_id(self) -> str:
        """Of the root, once it is there; else ""."""
        return self._sealer.root_id if self._sealer else ""

    def summary(self) -> dict[str, Any]:
        """For the status: which root, its name once it is there, and why it could not be had."""
        trouble = problem.document(self.trouble) if self.trouble else None
        return {"root": self.kind, "id": self.root_id, "secrets": len(self._names), "trouble": trouble}

    async def sealer(self) -> Sealer:
        """The root, asked for once. Raises ConfigError (``config.sealing``) without one, else as Source.

        After a failure the next try comes after a pause; until then, the same error again.
        """
        if self._sealer:
            return self._sealer
        if self.kind == "none":
            raise ConfigError(
                "nothing can be sealed: there is no root for it",
                hint='[sealing] root = "tas": docs/sealing.md',
                code="config.sealing",
            )
        if self._opening is None:
            if self.trouble and self._clock() < self._again_at:
                raise problem.exception(problem.document(self.trouble))
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._done)
        return await asyncio.shield(self._opening)

    def _done(self, task: asyncio.Task[Sealer]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # whoever asked may have left

    async def _open(self) -> Sealer:
        try:
            found = await (self._source.derived() if self.kind == "snp-derived" else self._source.released(RESERVED))
            sealer = Sealer.from_snp(found.secret) if self.kind == "snp-derived" else self._of_tas(found.secret)
        except TeeAgentError as error:
            self._told.failed("root of sealed data", error)
            self._again_at = self._clock() + PAUSES.delay(self._failures, CHANCE())
            self._failures += 1
            self.trouble = error
            raise
        self._sealer, self.trouble = sealer, None
        self._told.opened(sealer.root_id, added_root=found.added_root)
        return sealer

    def _of_tas(self, secret: Secret) -> Sealer:
        return Sealer.from_tas(secret, self._policy_id)

    async def secret(self, name: str, uid: int) -> Released:
        """A secret for an application, the caller's to wipe. Raises UsageError (``usage.secret``) where there is none
        of this name, ServerError (``server.budget``), as Source."""
        if name not in self._names:
            raise UsageError(
                "no secret of this name is configured",
                hint="GET /v1/secrets (tee-agent secret --list) has those that there are",
                code="usage.secret",
            )
        with self._allowance.place(uid):
            return await self._source.released(name)
