"""What the signer is made of and what is wired to what, inside its running loop."""

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
from agent.daemon.attachments import AGENT, Current
from agent.daemon.audit import Audit
from agent.daemon.batch import Batcher
from agent.daemon.budget import Budget
from agent.daemon.formats import Means, whose
from agent.daemon.freshapi import FreshApi
from agent.daemon.front import Front
from agent.daemon.guard import Guard, OnDenied
from agent.daemon.heads import Sender, through_fetcher
from agent.daemon.journal import Reports
from agent.daemon.keeper import Keeper
from agent.daemon.keyapi import KeyApi
from agent.daemon.keyfolder import KeyFolder
from agent.daemon.keyhistory import History
from agent.daemon.keys import Attester, Complete, KeyRing, Log, Terms
from agent.daemon.metrics import Metered, MetricsApi, Tally
from agent.daemon.monitor import Telling, boot_events
from agent.daemon.named import Limits, NamedKeys
from agent.daemon.names import QUOTER, socket_path
from agent.daemon.openapi import Description
from agent.daemon.peers import Caller
from agent.daemon.released import Roots
from agent.daemon.remote import RemoteQuoter
from agent.daemon.renewal import Renewal, Watched
from agent.daemon.report import Reporter, service_state
from agent.daemon.role import Life
from agent.daemon.sealapi import SealApi
from agent.daemon.secretapi import SecretApi
from agent.daemon.sshapi import SshApi
from agent.daemon.sshfront import SshFront
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


@dataclass(frozen=True)
class Signer:
    """The parts; ``assembled`` makes them."""

    guard: Guard
    audit: Audit
    reports: Reports
    ring: KeyRing
    named: NamedKeys
    keeper: Keeper
    renewal: Renewal
    batcher: Batcher
    front: Front
    ssh: SshFront
    dispatch: Dispatch

    @classmethod
    def assembled(cls, config: Config, complete: Complete, guard: Guard, early: Early) -> Signer:
        """All parts, idle: the audit log is open, nothing runs. Raises as Audit.open and NamedKeys.

        ``complete`` says what a bundle carries beside the evidence.
        """
        terms = terms_of(config)
        folder = config.daemon.runtime_dir
        audit = Audit(config.audit, terms.scope.boot_id)
        audit.open(__version__)
        for event in boot_events(report.read()):
            audit.event(event.kind, severity=event.severity, caller=None, **event.fields)
        heads, tally = Sender(through_fetcher(folder)) if config.tas else None, Tally()
        reports = Reports(audit, heads, tally)
        renewal = Renewal(reports.tcb_changed)
        quotes = Watched(Metered(RemoteQuoter(socket_path(folder, QUOTER)), tally), renewal.seen)
        nonce, budget = newest_nonce(folder), Budget(config.daemon.challenge_batch_max)
        attester = Attester(terms, quotes, complete, nonce, audit.anchor, budget=budget)
        ring, told = KeyRing(attester), Telling(quotes, audit.failed)
        roots = Roots.configured(config, reports)
        limits = Limits(config.daemon.keys_max, config.daemon.keys_each_max)
        keys_folder = KeyFolder(config.daemon.keys_folder, audit.anchor)
        keeper = Keeper(keys_folder, roots.root, reports, History(config.audit.folder, audit.anchor))
        asked = Attester(terms, told, complete, nonce, audit.anchor, budget=budget)
        named = NamedKeys(asked, limits, reports.ended, keeper)
        batcher = Batcher(budget, told, complete, terms.quote_seconds)
        front = Front(guard)
        ssh = SshFront(front.admission, SshApi(named, guard, reports))
        metrics = MetricsApi(tally, ring, named, batcher, audit, front.count)
        told_of = (audit.summary, keeper.summary, roots.summary)
        reporter = Reporter(folder, ring, batcher, named, front.count, ssh.summary, lambda: guard.notes, *told_of)
        means = Means.of(attached(ring, named))
        fresh = FreshApi(ring, batcher, guard, reports, means)
        keys, sealing, secrets = (
            KeyApi(named, ring, guard, reports, means, fresh),
            SealApi(roots, reports),
            SecretApi(roots, guard, reports),
        )
        api = Api(ring, fresh, reporter, keys, reports, early.description, sealing, secrets, early.verifier, metrics)
        guard.on_reload = reports.policy
        guard.on_denied = _both(audit, tally)
        dispatch = Dispatch(api.routes(), guard, ROUTES, tally)
        return cls(guard, audit, reports, ring, named, keeper, renewal, batcher, front, ssh, dispatch)

    def work(self, life: Life, sock: socket.socket, ssh: socket.socket | None) -> tuple[Work, ...]:
        """What runs for ever beside each other: ``sock`` is served among it, and ``ssh`` to ssh clients."""
        told = _told(life, self.audit)
        return (
            self.ring.run(told, self.reports.own),
            self.named.run(told),
            self.keeper.run(told),
            self.renewal.run(self.ring, self.named),
            self.batcher.run(),
            self.audit.run(),
            *([self.reports.heads.run(told, self.reports.tell)] if self.reports.heads else []),
            self.front.run(sock, self.dispatch),
            *([self.ssh.run(ssh)] if ssh else []),
        )

    async def drain(self) -> None:
        """Requests under way end. What they wait for must still run."""
        await asyncio.gather(self.front.drain(), self.ssh.drain())

    def close(self) -> None:
        """The last record."""
        self.audit.close()


def attached(ring: KeyRing, named: NamedKeys) -> Current:
    """Gives the attachments that each key has at the moment."""

    def current() -> Iterator[tuple[str, Attachments]]:
        if ring.held:
            yield AGENT, ring.held.attachments
        yield from ((whose(key), key.attachments) for key in named.all())

    return current


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


def _both(audit: Audit, tally: Tally) -> OnDenied:
    """A refusal is told to the audit log, and counted."""

    def told(caller: Caller, wish: Wish, decision: Decision) -> None:
        audit.denied(caller, wish, decision)
        tally.on_denied(wish)

    return told


def _told(life: Life, audit: Audit) -> Log:
    """For what fails by itself: the journal has it, and the audit log."""

    def tell(what: str, error: TeeAgentError) -> None:
        life.log_error(what, error)
        audit.failed(what, error)

    return tell
