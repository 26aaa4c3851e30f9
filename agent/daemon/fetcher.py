"""The fetcher: the only process with a network, and the one without keys (DESIGN.md, section 5).

Every few minutes, never on the beat, it asks the attestation service for its version and a nonce. The newest nonce
goes into the statement of the signer's next key: a lower bound for its age that somebody else vouches for.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.core.canonical import rfc3339
from agent.core.config import Config, TasConfig
from agent.core.errors import TeeAgentError
from agent.core.model import Nonce
from agent.core.ports import Deadline as AnyDeadline
from agent.daemon import privileges, sockets
from agent.daemon.names import FETCHER, QUOTER, SOCKETS, socket_path
from agent.daemon.peers import Caller
from agent.daemon.remote import RemoteQuoter
from agent.daemon.role import Life, begin, live, rehardened
from agent.daemon.rpc import Service
from agent.daemon.state import State
from agent.daemon.threads import in_thread
from agent.deadline import Deadline
from agent.session import open_tas

CHECK_SECONDS = 20.0
"""For version and nonce together."""
INTERVAL_SECONDS = 300.0
RETRY_SECONDS = 15.0
"""First pause after a failure; it doubles up to the interval."""
JITTER = 0.2
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
    return run(config, lambda: _open(config), supervised=supervised)


def _open(config: Config) -> Check | None:
    if config.tas is None:
        return None
    config = replace(config, tas=with_credential(config.tas))
    client = open_tas(config, quotes=RemoteQuoter(socket_path(config.daemon.runtime_dir, QUOTER)))

    def check(deadline: AnyDeadline) -> tuple[str, Nonce]:
        return client.version(deadline), client.nonce(deadline)

    return check


def with_credential(tas: TasConfig) -> TasConfig:
    """With the unit's copy of the API key where the file itself is root's alone, as it may be."""
    handed = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), CREDENTIAL)
    if os.access(tas.api_key_file, os.R_OK) or not handed.is_file() or handed.stat().st_size <= _EMPTY_BYTES:
        return tas
    return replace(tas, api_key_file=handed)


def run(config: Config, open_check: Callable[[], Check | None], *, supervised: bool) -> int:
    """The role's process. ``open_check`` reads what only root may (the API key) and is called first.

    Raises ConfigError, Conflict, PermissionMissing.
    """
    life = begin(FETCHER, supervised=supervised)
    user = privileges.unprivileged(config.daemon.fetcher_user, "fetcher_user")
    signer = privileges.unprivileged(config.daemon.signer_user, "signer_user")
    watch = Watch(config.tas.url if config.tas else "", open_check())
    listener = sockets.listen(config.daemon.runtime_dir, SOCKETS[FETCHER])
    privileges.become(user)
    rehardened()

    async def answer(_params: dict[str, Any], _caller: Caller) -> dict[str, Any]:
        return watch.state.document()

    async def main(life: Life) -> None:
        service = Service({"state": answer}, lambda caller: frozenset({"state"} if caller.uid in known else ()))
        await service.start(listener.sock)
        watching = asyncio.create_task(watch.run(lambda state: _tell(life, state)))
        life.notifier.ready("watches the attestation service" if config.tas else "no attestation service configured")
        await life.stop.wait()
        watching.cancel()
        await service.stop()

    known = {0, signer.uid, user.uid}
    return live(life, main)


def _tell(life: Life, state: State) -> None:
    if state.state == "unreachable":
        life.log(f"attestation service {state.url}: {state.reason} [{state.code}]")
    life.notifier.say(f"STATUS=attestation service: {state.state}")
