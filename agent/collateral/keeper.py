"""What is kept, renewed or refused in the cache, whoever the vendor is.

A stored statement is judged anew each time: what does not verify is fetched again. What was fetched is stored only if
it verifies under the pinned roots at this time, and never in place of a newer one of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from agent.collateral.cache import Cache
from agent.collateral.web import Answer, Web
from agent.core.errors import PlatformError, Rollback, TeeAgentError, UsageError
from agent.core.model import TrustAnchor
from agent.core.ports import Deadline

RENEW_AFTER = timedelta(hours=20)
"""A statement with an end (CRL, TCB info, QE identity) that was confirmed longer ago is asked for again."""


@dataclass(frozen=True, slots=True)
class Life:
    """From when to when a statement is good."""

    starts: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """``action``: fetched, fresh (nothing to do), kept (a newer one could not be had: ``problem``), missing."""

    name: str
    action: str
    ends: datetime | None = None
    problem: str = ""
    code: str = ""


@dataclass(slots=True)
class Keeper:
    """One run over the cache. ``force`` asks for everything again, but for certificates that can't change."""

    cache: Cache
    web: Web
    anchors: Sequence[TrustAnchor]
    at: datetime
    deadline: Deadline
    force: bool = False
    outcomes: list[Outcome] = field(default_factory=list)

    def keep(self, name: str, check: Callable[[bytes], Life], fetch: Callable[[], bytes], *, lasting: bool) -> bytes:
        """The statement ``name``: stored, renewed if it is due, or fetched.

        ``check`` raises for what does not verify now. ``lasting`` ones are not renewed while they verify. Raises what
        ``fetch`` and ``check`` raise where nothing usable is stored.
        """
        stored, life = self._stored(name, check)
        if stored is not None and life is not None and not self._due(name, lasting=lasting):
            self._note(name, "fresh", life)
            return stored
        try:
            fetched = fetch()
            new = check(fetched)
            if life is not None and new.starts < life.starts:
                raise Rollback(f"the service has an older one, of {new.starts:%Y-%m-%d}")
        except (PlatformError, UsageError):
            raise  # the folder, not the vendor
        except TeeAgentError as error:
            if stored is None or life is None:
                raise
            self._note(name, "kept", life, error)
            return stored
        self.cache.write(name, fetched)
        self._note(name, "fetched", new)
        return fetched

    def attempt(self, name: str, step: Callable[[], object]) -> None:
        """``step``; a vendor's failure in it leaves ``name`` missing and does not end the run."""
        try:
            step()
        except (PlatformError, UsageError):
            raise
        except TeeAgentError as error:
            self.outcomes.append(Outcome(name, "missing", None, error.message, error.code))

    def get(self, url: str, max_bytes: int, spacing: float = 0.0) -> Answer:
        return self.web.get(url, max_bytes=max_bytes, deadline=self.deadline, spacing=spacing)

    def _stored(self, name: str, check: Callable[[bytes], Life]) -> tuple[bytes | None, Life | None]:
        data = self.cache.read(name)
        if data is None:
            return None, None
        try:
            return data, check(data)
        except TeeAgentError:
            return None, None

    def _due(self, name: str, *, lasting: bool) -> bool:
        if lasting:
            self.cache.touch(name)
            return False
        return self.force or self.at - self.cache.confirmed(name) > RENEW_AFTER

    def _note(self, name: str, action: str, life: Life, error: TeeAgentError | None = None) -> None:
        problem, code = (error.message, error.code) if error else ("", "")
        self.outcomes.append(Outcome(name, action, life.ends, problem, code))
