"""What the signer is made of and what is wired to what, inside its running loop.

In the order in which it is made: Books, in which everything else writes; Keys, and what attests them; Signer, which
serves them.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from agent import __version__
from agent.boot import report
from agent.core.access import Decision, Wish
from agent.core.bundle_parts import Attachments
from agent.core.config import Config
from agent.core.errors import TeeAgentError
from agent.daemon.api import ROUTES, Api, Dispatch
from agent.daemon.attachments import AGENT
from agent.daemon.audit import Audit
from agent.daemon.batch import Batcher
from agent.daemon.budget import Budget
from agent.daemon.formats import Means, whose
from agent.daemon.freshapi import FreshApi
from agent.daemon.front import Front
from agent.daemon.guard import Guard
from agent.daemon.heads import Sender, through_fetcher
from agent.daemon.journal import Reports
from agent.daemon.keeper import Keeper
from agent.daemon.keyapi import KeyApi
from agent.daemon.keyfolder import KeyFolder
from agent.daemon.keyhistory import History
from agent.daemon.keys import AttestedKey, Attester, Complete, KeyRing, Log, Terms
from agent.daemon.metrics import Metered, MetricsApi, Tally
from agent.daemon.monitor import Telling, boot_events
from agent.daemon.named import Limits, NamedKeys
from agent.daemon.names import QUOTER, socket_path
from agent.daemon.openapi import Description
from agent.daemon.peers import Caller
from agent.daemon.released import Roots
from agent.daemon.remote import RemoteQuoter
from agent.daemon.renewal import Renewal, Watched
from agent.daemon.report import Others, Reporter, service_state
from agent.daemon.role import Life
from agent.daemon.sealapi import SealApi
from agent.daemon.secretapi import SecretApi
from agent.daemon.sshapi import SshApi
from agent.daemon.sshfront import SshFront
from agent.daemon.verifier import Verifier
from agent.daemon.verifyapi import VerifyApi
from agent.quoter import local_scope

NONCE_SECONDS = 3.0
"""For the fetcher's first answer, before a key is made without the service's nonce."""
_POLL_SECONDS = 0.05

Work = Coroutine[Any, Any, None]


@dataclass(frozen=True)
class Early:
    """What is made while the process may still read its own files, and before it has a key."""

    description: Description
    verifier: VerifyApi
    notes: tuple[str, ...] = ()
    """What an admin should mend."""


@dataclass(frozen=True)
class Books:
    """What is written down, and what is counted."""

    audit: Audit
    tally: Tally
    reports: Reports

    @classmethod
    def opened(cls, config: Config, boot_id: str) -> Books:
        """The audit log is open, and knows how the machine booted. Raises as Audit.open."""
        audit = Audit(config.audit, boot_id)
        audit.open(__version__)
        for event in boot_events(report.read()):
            audit.event(event.kind, severity=event.severity, caller=None, **event.fields)
        tally = Tally()
        heads = Sender(through_fetcher(config.daemon.runtime_dir)) if config.tas else None
        return cls(audit, tally, Reports(audit, heads, tally))

    def denied(self, caller: Caller, wish: Wish, decision: Decision) -> None:
        """A refusal by the policy: told, and counted."""
        self.audit.denied(caller, wish, decision)
        self.tally.on_denied(wish)

    def told(self, life: Life) -> Log:
        """For what fails by itself: the journal has it, and the audit log."""

        def tell(what: str, error: TeeAgentError) -> None:
            life.log_error(what, error)
            self.audit.failed(what, error)

        return tell


@dataclass(frozen=True)
class Keys:
    """The agent's own key, named ones, challenges, the root of sealed data, and what renews evidence."""

    ring: KeyRing
    named: NamedKeys
    keeper: Keeper
    batcher: Batcher
    roots: Roots
    renewal: Renewal

    @classmethod
    def assembled(cls, config: Config, complete: Complete, terms: Terms, books: Books) -> Keys:
        """All idle. Raises as NamedKeys. ``complete`` says what a bundle carries beside the evidence."""
        daemon, audit, reports = config.daemon, books.audit, books.reports
        renewal = Renewal(reports.tcb_changed)
        quotes = Watched(Metered(RemoteQuoter(socket_path(daemon.runtime_dir, QUOTER)), books.tally), renewal.seen)
        # Why there is no evidence for the agent's own key its ring tells; for what callers asked, this does.
        asked = Telling(quotes, audit.failed)
        nonce, budget = newest_nonce(daemon.runtime_dir), Budget(daemon.challenge_batch_max)
        own, others = (Attester(terms, each, complete, nonce, audit.anchor, budget=budget) for each in (quotes, asked))
        roots = Roots.configured(config, reports)
        history = History(config.audit.folder, audit.anchor)
        keeper = Keeper(KeyFolder(daemon.keys_folder, audit.anchor), roots.root, reports, history)
        named = NamedKeys(others, Limits(daemon.keys_max, daemon.keys_each_max), reports.ended, keeper)
        batcher = Batcher(budget, asked, complete, terms.quote_seconds)
        return cls(KeyRing(own), named, keeper, batcher, roots, renewal)

    def attachments(self) -> Iterator[tuple[str, Attachments]]:
        """Those that each key has at the moment."""
        if self.ring.held:
            yield AGENT, self.ring.held.attachments
        yield from ((whose(key), key.attachments) for key in self.named.all())


@dataclass(frozen=True)
class Signer:
    """The parts; ``assembled`` makes them."""

    books: Books
    keys: Keys
    verifier: Verifier
    front: Front
    ssh: SshFront
    dispatch: Dispatch

    @classmethod
    def assembled(cls, config: Config, complete: Complete, guard: Guard, early: Early) -> Signer:
        """All parts, idle: the audit log is open, nothing runs. Raises as Books.opened and Keys.assembled."""
        terms = terms_of(config)
        books = Books.opened(config, terms.scope.boot_id)
        keys = Keys.assembled(config, complete, terms, books)
        guard.on_reload, guard.on_denied = books.reports.policy, books.denied
        front = Front(guard)
        keys.named.on_dropped(front.afresh)
        ssh = SshFront(front.admission, SshApi(keys.named, guard, books.reports))
        metrics = MetricsApi(
            books.tally, keys.ring, keys.named, keys.batcher, books.audit, front.count, early.verifier.there
        )
        reporter = Reporter(
            Others(config.daemon.runtime_dir),
            keys.ring,
            keys.batcher,
            keys.named,
            front.count,
            lambda: (*early.notes, *guard.notes),
            ssh=ssh.summary,
            audit=books.audit.summary,
            kept=keys.keeper.summary,
            sealing=keys.roots.summary,
            verification=early.verifier.summary,
        )
        api = _api(books.reports, keys, guard, early, reporter=reporter, metrics=metrics)
        dispatch = Dispatch(api.routes(), guard, ROUTES, books.tally)
        return cls(books, keys, early.verifier.verifier, front, ssh, dispatch)

    def work(self, life: Life, sock: socket.socket, ssh: socket.socket | None) -> tuple[Work, ...]:
        """What runs for ever beside each other: ``sock`` is served among it, and ``ssh`` to ssh clients."""
        told, keys, reports = self.books.told(life), self.keys, self.books.reports
        self.verifier.watch(told)
        return (
            keys.ring.run(told, self._renewed),
            keys.named.run(told),
            keys.keeper.run(told),
            keys.renewal.run(keys.ring, keys.named),
            keys.batcher.run(),
            self.books.audit.run(),
            *([reports.heads.run(told, reports.tell)] if reports.heads else []),
            self.front.run(sock, self.dispatch),
            *([self.ssh.run(ssh)] if ssh else []),
        )

    def _renewed(self, key: AttestedKey) -> None:
        """The agent has another key: no connection remembers the one before."""
        self.front.afresh()
        self.books.reports.own(key)

    async def drain(self) -> None:
        """Requests under way end. What they wait for must still run."""
        await asyncio.gather(self.front.drain(), self.ssh.drain())

    def close(self) -> None:
        """The last record."""
        self.books.audit.close()


def _api(reports: Reports, keys: Keys, guard: Guard, early: Early, *, reporter: Reporter, metrics: MetricsApi) -> Api:
    means = Means.of(keys.attachments)
    fresh = FreshApi(keys.ring, keys.batcher, guard, reports, means)
    named = KeyApi(keys.named, keys.ring, guard, reports, means, fresh)
    sealing, secrets = SealApi(keys.roots, reports), SecretApi(keys.roots, guard, reports)
    return Api(keys.ring, fresh, reporter, named, reports, early.description, sealing, secrets, early.verifier, metrics)


def terms_of(config: Config) -> Terms:
    """What all keys have in common."""
    return Terms(
        local_scope(config.daemon.audience),
        timedelta(seconds=config.daemon.key_lifetime_seconds),
        config.evidence.quote_seconds,
    )


def newest_nonce(folder: Path) -> Callable[[], str | None]:
    """Asks the fetcher for the service's newest nonce; None where there is no service, or it can't be reached."""

    def ask() -> str | None:
        end = time.monotonic() + NONCE_SECONDS
        while time.monotonic() < end:
            try:
                state = service_state(folder)
            except TeeAgentError:
                state = None
            if state and state.state != "checking":
                return state.nonce or None
            time.sleep(_POLL_SECONDS)
        return None

    return ask
