"""The fetcher: the only process with a network, and the one without keys (DESIGN.md, section 5).

Every few minutes, never on the beat, it asks the attestation service for its version and a nonce. The newest nonce
goes into the statement of the signer's next key: a lower bound for its age that somebody else vouches for. And it
has secrets released for the signer, encrypted to the signer's key (agent.daemon.releases), and sends the heads of the
audit log that are in new keys' statements (agent.daemon.heads).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.core import headpost
from agent.core.canonical import rfc3339
from agent.core.config import Config, TasConfig
from agent.core.errors import ConfigError, TeeAgentError
from agent.core.exchange import Wrapped
from agent.core.model import Nonce
from agent.core.ports import Deadline as AnyDeadline
from agent.core.sealconfig import releases
from agent.daemon import heads, privileges, sockets
from agent.daemon.names import FETCHER, QUOTER, SOCKETS, socket_path
from agent.daemon.peers import Caller
from agent.daemon.releases import Fetch, Releases
from agent.daemon.remote import RemoteQuoter
from agent.daemon.role import Life, begin, live, rehardened
from agent.daemon.rpc import Handler, Service
from agent.daemon.state import State
from agent.daemon.tasks import until_stopped
from agent.daemon.threads import in_thread
from agent.deadline import Deadline
from agent.probe import preload
from agent.session import open_tas

CHECK_SECONDS = 20.0
"""For version and nonce together."""
INTERVAL_SECONDS = 300.0
RETRY_SECONDS = 15.0
"""First pause after a failure; it doubles up to the interval."""
JITTER = 0.2
STATE, SIGNERS = frozenset({"state"}), frozenset({"release", heads.METHOD})
"""Methods."""
CREDENTIAL = "tas-api-key"
"""Name of the API key among the credentials of the unit (systemd.exec(5), LoadCredential)."""
_EMPTY_BYTES = 1
"""What the unit hands over where there is no such file: a credential can't be empty."""

Check = Callable[[AnyDeadline], tuple[str, Nonce]]
"""Asks the service for its version and a nonce."""


class Watch:
    """Keeps the state up to date. ``check`` None: no service is configured."""

    def __init__(self, url: str, check: Check | None) -> None:
        self._check = check
        self._failures = 0
        self.state = State("checking", url) if check else State("not-configured")

    async def run(self, told: Callable[[State], None]) -> None:
        """Check for ever; returns at once when there is nothing to watch."""
        while self._check:
            self.state = await self._look(self._check)
            told(self.state)
            await asyncio.sleep(self._pause())

    async def _look(self, check: Check) -> State:
        try:
            version, nonce = await in_thread(lambda: check(Deadline(CHECK_SECONDS, "attestation service")))
        except TeeAgentError as error:
            self._failures += 1
            reason = " ".join(error.message.split())[:1000]
            return replace(self.state, state="unreachable", reason=reason, code=error.code, checked_at=_now())
        self._failures = 0
        return State("reachable", self.state.url, version[:200], nonce.text, _now(), _now())

    def _pause(self) -> float:
        pause = INTERVAL_SECONDS
        if self._failures:
            pause = min(pause, RETRY_SECONDS * 2 ** min(self._failures - 1, 16))
        return pause * random.SystemRandom().uniform(1 - JITTER, 1 + JITTER)


def _now() -> str:
    return rfc3339(datetime.now(UTC))


def start(config: Config, *, supervised: bool) -> int:
    """The role's process, on the configured service if there is one. Raises as run."""
    preload()
    return run(config, lambda: _open(config), supervised=supervised)


@dataclass(frozen=True, slots=True)
class Client:
    """What the fetcher asks of the service."""

    check: Check
    fetch: Fetch
    post: heads.Post


def _open(config: Config) -> Client | None:
    if config.tas is None:
        return None
    config = replace(config, tas=with_credential(config.tas))
    client = open_tas(config, quotes=RemoteQuoter(socket_path(config.daemon.runtime_dir, QUOTER)))

    def check(deadline: AnyDeadline) -> tuple[str, Nonce]:
        return client.version(deadline), client.nonce(deadline)

    def post(document: bytes, deadline: AnyDeadline) -> bool:
        return headpost.answer(client.send(headpost.request(document), deadline))

    return Client(check, client.fetch_wrapped, post)


def with_credential(tas: TasConfig) -> TasConfig:
    """With the unit's copy of the API key where the file itself is root's alone, as it may be."""
    handed = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), CREDENTIAL)
    if os.access(tas.api_key_file, os.R_OK) or not handed.is_file() or handed.stat().st_size <= _EMPTY_BYTES:
        return tas
    return replace(tas, api_key_file=handed)


def run(config: Config, open_client: Callable[[], Client | None], *, supervised: bool) -> int:
    """The role's process. ``open_client`` reads what only root may (the API key) and is called first.

    Raises ConfigError, Conflict, PermissionMissing.
    """
    life = begin(FETCHER, supervised=supervised)
    user = privileges.unprivileged(config.daemon.fetcher_user, "fetcher_user")
    signer = privileges.unprivileged(config.daemon.signer_user, "signer_user")
    _require_apart(config, signer, user)
    client = open_client()
    watch = Watch(config.tas.url if config.tas else "", client.check if client else None)
    poster = heads.Poster(client.post if client else None)
    listener = sockets.listen(config.daemon.runtime_dir, SOCKETS[FETCHER])
    privileges.become(user)
    rehardened()

    async def answer(_params: dict[str, Any], _caller: Caller) -> dict[str, Any]:
        return {**watch.state.document(), **asdict(poster.state)}

    async def main(life: Life) -> None:
        desk = _desk(config, client)
        methods: dict[str, Handler] = {"state": answer, "release": desk.release, heads.METHOD: poster.send}
        service = Service(methods, permits(signer.uid, user.uid), heads.MAX_REQUEST)
        await service.start(listener.sock)
        tasks = [asyncio.create_task(watch.run(lambda state: _tell(life, state)))] if client else []
        life.notifier.ready("watches the attestation service" if config.tas else "no attestation service configured")
        try:
            await until_stopped(life.stop, tasks)
        finally:
            for task in tasks:
                task.cancel()
        desk.close()
        await service.stop()

    return live(life, main)


def permits(signer_uid: int, fetcher_uid: int) -> Callable[[Caller], frozenset[str]]:
    """Which methods a caller may use. Releases are for the signer: root, who could, would have asked by itself."""
    table = {fetcher_uid: STATE, 0: STATE, signer_uid: STATE | SIGNERS}
    return lambda caller: table.get(caller.uid, frozenset())


def _require_apart(config: Config, signer: privileges.User, fetcher: privileges.User) -> None:
    """The configuration compares names; two may be one user. Raises ConfigError."""
    if signer.uid == fetcher.uid and releases(config.sealing, config.secrets):
        raise ConfigError(
            f"{config.source}: signer_user and fetcher_user are one user (uid {signer.uid})",
            hint="secrets are for the signer, and not for the process that has the network",
            code="config.unsafe",
        )


def _desk(config: Config, client: Client | None) -> Releases:
    if config.tas is None or client is None:
        return Releases({}, _no_service, 0.0)
    return Releases(releases(config.sealing, config.secrets), client.fetch, config.tas.deadline_seconds)


def _no_service(_policy_id: str, _key: bytes, _deadline: AnyDeadline) -> Wrapped:
    raise ConfigError("no attestation service is configured", code="config.missing")


def _tell(life: Life, state: State) -> None:
    if state.state == "unreachable":
        life.log(f"attestation service {state.url}: {state.reason} [{state.code}]")
    life.notifier.say(f"STATUS=attestation service: {state.state}")
