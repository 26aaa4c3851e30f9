"""What the agent says about itself: GET /v1/status and GET /v1/keys.

It must be said when other processes hang, and while many ask: they are asked side by side, and never twice at a time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from agent import __version__
from agent.core import sshsig
from agent.core.canonical import Reader, b64, rfc3339
from agent.core.errors import TeeAgentError
from agent.daemon import problem, rpc
from agent.daemon.batch import Batcher
from agent.daemon.held import Held
from agent.daemon.keys import Attested, KeyRing
from agent.daemon.named import NamedKey, NamedKeys
from agent.daemon.names import FETCHER, QUOTER, SIGNER, socket_path
from agent.daemon.sshapi import public_line
from agent.daemon.state import State, state_from
from agent.daemon.threads import in_thread
from agent.deadline import Deadline

ASK_SECONDS = 2.0
"""For another process of ours to answer."""


def service_state(folder: Path) -> State:
    """The fetcher's knowledge. Raises TeeAgentError when it does not answer."""
    answer = rpc.call(socket_path(folder, FETCHER), "state", {}, deadline=Deadline(ASK_SECONDS, "fetcher"))
    return state_from(answer)


def describe_key(key: Attested) -> dict[str, Any]:
    """A public key as GET /v1/keys shows it. ``id`` is the SHA-256 of the SubjectPublicKeyInfo, as hex."""
    return {
        "id": key.attachments.key_sha256.hex(),
        "algorithm": key.statement.algorithm,
        "use": key.statement.use,
        "storage": key.statement.storage,
        "spki": b64(key.attachments.spki),
        "statement": key.statement.to_json(),
        "evidence": {
            "tee": key.attachments.tee.value,
            "provider": key.provider,
            "at": rfc3339(key.evidence_at),
            "age_seconds": int((datetime.now(UTC) - key.evidence_at).total_seconds()),
        },
    }


def describe_named(key: NamedKey) -> dict[str, Any]:
    """The same of a named key's generation."""
    return {
        "namespace": key.namespace,
        "name": key.name,
        "generation": key.generation,
        "newest": key.newest,
        "created": rfc3339(key.created),
        "ends": rfc3339(key.ends) if key.ends else None,
        "persistent": key.persistent,
        **({"ssh": public_line(key)} if key.use == sshsig.USE else {}),
        **describe_key(key),
    }


def describe_held(namespace: str, name: str, held: Held) -> dict[str, Any]:
    """A persistent key of which no more is known, for it can't be used: ``state`` is locked or broken."""
    return {"namespace": namespace, "name": name, "persistent": True, "state": held.state, "reason": held.reason}


@dataclass(frozen=True, slots=True)
class Reporter:
    """Gathers the status; ``connections`` counts open ones, ``notes`` tells what an admin should mend."""

    others: Others
    ring: KeyRing
    batcher: Batcher
    named: NamedKeys
    connections: Callable[[], int]
    notes: Callable[[], Iterable[str]]
    ssh: Callable[[], Mapping[str, Any]]
    audit: Callable[[], Mapping[str, Any]]
    kept: Callable[[], Mapping[str, Any]]
    sealing: Callable[[], Mapping[str, Any]]
    verification: Callable[[], Mapping[str, Any]]

    async def status(self) -> dict[str, Any]:
        """Asks the other processes too, ASK_SECONDS at the most."""
        service, quoter, fetcher = await self.others.ask()
        key = self.ring.held
        return {
            "version": __version__,
            "ready": bool(key and key.valid(datetime.now(UTC))),
            "key": describe_key(key) if key else None,
            "trouble": _told(self.ring.trouble),
            "service": service,
            "processes": {SIGNER: {"pid": os.getpid()}, QUOTER: quoter, FETCHER: fetcher},
            "named_keys": {
                "generations": self.named.count,
                "waiting": self.named.waiting,
                "trouble": _told(self.named.trouble),
            },
            "persistent_keys": self.kept(),
            "sealing": self.sealing(),
            "audit": self.audit(),
            "verification": self.verification(),
            "challenges": {
                "waiting": self.batcher.waiting,
                "batches": self.batcher.batches,
                "quote_seconds": round(self.batcher.quote_seconds, 3),
            },
            "connections": self.connections(),
            "ssh": self.ssh(),
            "notes": list(self.notes()),
        }


Said = Mapping[str, Any]


class Others:
    """What the other processes say. Who asks while they are being asked gets that answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asking: asyncio.Task[tuple[Said, Said, Said]] | None = None

    async def ask(self) -> tuple[Said, Said, Said]:
        """The attestation service as the fetcher knows it; quoter and fetcher as ``processes`` has them."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> tuple[Said, Said, Said]:
        quoter, fetcher = partial(self._ping, QUOTER), partial(self._ping, FETCHER)
        return await asyncio.gather(in_thread(self._service), in_thread(quoter), in_thread(fetcher))

    def _service(self) -> Said:
        try:
            return service_state(self._folder).document()
        except TeeAgentError as error:
            return State("unknown", reason=error.message, code=error.code).document()

    def _ping(self, name: str) -> Said:
        try:
            said = rpc.call(socket_path(self._folder, name), rpc.PING, {}, deadline=Deadline(ASK_SECONDS, name))
            return {"pid": Reader(said, f"answer of the {name}", frozenset({"pid"})).integer("pid")}
        except TeeAgentError as error:
            return {"pid": None, "error": problem.document(error)}


def _told(trouble: TeeAgentError | None) -> dict[str, Any] | None:
    return problem.document(trouble) if trouble else None
