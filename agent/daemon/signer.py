"""The signer: the socket for everybody, and the keys. No network, no capabilities, no files but the endorsements."""

from __future__ import annotations

import asyncio
import importlib
import os
import resource
import stat
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from agent import __version__, rulefiles
from agent.core.bundle_parts import MAX_OBJECTS
from agent.core.config import Config
from agent.core.errors import ConfigError, TeeAgentError
from agent.core.model import Endorsements, Evidence, Tee
from agent.daemon import auditdisk, privileges, sockets
from agent.daemon.api import ROUTES, Api, Dispatch
from agent.daemon.audit import Audit
from agent.daemon.batch import Batcher
from agent.daemon.front import Front
from agent.daemon.guard import Guard
from agent.daemon.journal import Reports
from agent.daemon.keyapi import KeyApi
from agent.daemon.keys import Attester, Complete, KeyRing, Log, Terms
from agent.daemon.named import Limits, NamedKeys
from agent.daemon.names import QUOTER, SIGNER, SOCKETS, socket_path
from agent.daemon.remote import RemoteQuoter
from agent.daemon.report import Reporter, service_state
from agent.daemon.role import Life, begin, live, rehardened
from agent.probe import endorsements_of
from agent.quoter import local_scope
from agent.verify.endorsements import BOUNDS
from agent.verify.evidence import unpadded
from agent.verify.shelf import Shelf

DESCRIPTORS = 4096
"""Sockets and pidfds of all connections, with room to spare."""
NONCE_SECONDS = 3.0
"""For the fetcher's first answer, before a key is made without the service's nonce."""
_POLL_SECONDS = 0.05
_PRELOADED = "snp.certtable"
"""Imported by agent.probe on first use: too late, for the signer's user may be unable to read our files."""


def completer(folder: Path) -> Complete:
    """For bundles: what came with the evidence, then what ``folder`` has. A folder that is missing has nothing."""

    def complete(evidence: Evidence) -> tuple[bytes, Endorsements]:
        found = endorsements_of(evidence)
        if _is_there(folder):
            found = found.merged(Shelf.load(folder, BOUNDS).select(evidence.blob))
        if max(len(found.certificates), len(found.crls)) > MAX_OBJECTS:
            raise ConfigError(
                f"{folder}: a bundle carries {MAX_OBJECTS} certificates and {MAX_OBJECTS} CRLs at the most",
                hint="leave there what belongs to this machine only",
            )
        if evidence.tee is Tee.SNP:
            return evidence.blob, Endorsements(found.certificates, found.crls)
        return unpadded(evidence.blob), found

    return complete


def _is_there(folder: Path) -> bool:
    try:
        return stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(
            f"evidence.endorsements: {folder}: {error.strerror}",
            hint="the signer's user must be able to read it, and to search the folders above",
        ) from error


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


def start(config: Config, *, supervised: bool) -> int:
    """The role's process with this machine's endorsements. Raises as run."""
    importlib.import_module(_PRELOADED)
    return run(config, completer(config.evidence.endorsements), supervised=supervised)


def run(config: Config, complete: Complete, *, supervised: bool) -> int:
    """The role's process. Raises ConfigError, Conflict, PermissionMissing, PlatformError."""
    life = begin(SIGNER, supervised=supervised)
    user = privileges.unprivileged(config.daemon.signer_user, "signer_user")
    guard = Guard(partial(rulefiles.load, config))
    listener = sockets.listen(config.daemon.runtime_dir, SOCKETS[SIGNER])
    _more_descriptors()
    auditdisk.prepare(config.audit.folder, user.uid, user.gid)
    if os.geteuid() == 0:
        privileges.leave_network()
    privileges.become(user)
    rehardened()

    async def main(life: Life) -> None:
        folder = config.daemon.runtime_dir
        terms = Terms(
            local_scope(config.daemon.audience),
            timedelta(seconds=config.daemon.key_lifetime_seconds),
            config.evidence.quote_seconds,
        )
        quotes = RemoteQuoter(socket_path(folder, QUOTER))
        nonce = newest_nonce(folder)
        ring = KeyRing(terms, quotes, complete, nonce)
        limits = Limits(config.daemon.keys_max, config.daemon.keys_each_max)
        audit = Audit(config.audit, terms.scope.boot_id)
        audit.open(__version__)
        reports = Reports(audit)
        named = NamedKeys(Attester(terms, quotes, complete, nonce), limits, reports.ended)
        batcher = Batcher(ring, quotes, complete, config.daemon.challenge_batch_max)
        front = Front(guard)
        reporter = Reporter(folder, ring, batcher, named, front.count, lambda: guard.notes, audit.summary)
        api = Api(ring, batcher, reporter, KeyApi(named, ring, guard, reports), reports)
        guard.install(life)
        guard.on_denied = audit.denied
        work = (
            ring.run(_told(life, audit), reports.own),
            named.run(_told(life, audit)),
            batcher.run(),
            audit.run(),
            front.run(listener.sock, Dispatch(api.routes(), guard, ROUTES)),
        )
        tasks = [asyncio.create_task(each) for each in work]
        life.notifier.ready(f"serves {listener.path}")
        await _until_stopped(life, tasks)
        for task in tasks:
            task.cancel()
        await front.drain()
        audit.close()

    return live(life, main)


def _told(life: Life, audit: Audit) -> Log:
    """For what fails by itself: the journal has it, and the audit log."""

    def tell(what: str, error: TeeAgentError) -> None:
        life.log_error(what, error)
        audit.failed(what, error)

    return tell


async def _until_stopped(life: Life, tasks: list[asyncio.Task[None]]) -> None:
    """Until told to stop. A task that ends of itself is a defect: its error ends the process."""
    stop = asyncio.create_task(life.stop.wait())
    done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    for task in done - {stop}:
        task.result()


def _more_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
