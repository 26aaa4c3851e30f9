"""What the agent says about itself: GET /v1/status and GET /v1/keys."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent import __version__
from agent.core import sshsig
from agent.core.canonical import b64, rfc3339
from agent.core.errors import TeeAgentError
from agent.daemon import problem, rpc
from agent.daemon.batch import Batcher
from agent.daemon.keys import Attested, KeyRing
from agent.daemon.keystore import Held
from agent.daemon.named import NamedKey, NamedKeys
from agent.daemon.names import FETCHER, QUOTER, SIGNER, socket_path
from agent.daemon.sshapi import public_line
from agent.daemon.state import State, state_from
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

    folder: Path
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
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "status"))
    """Its own: a process that does not answer must not keep quotes waiting."""

    async def status(self) -> dict[str, Any]:
        """Asks the other processes too, ASK_SECONDS each at the most."""
        named = {"generations": self.named.count, "waiting": self.named.waiting, "trouble": _told(self.named.trouble)}
        found = await asyncio.get_running_loop().run_in_executor(self.threads, self._status)
        return {
            **found,
            "named_keys": named,
            "persistent_keys": self.kept(),
            "sealing": self.sealing(),
            "audit": self.audit(),
            "verification": self.verification(),
        }

    def _status(self) -> dict[str, Any]:
        key, trouble = self.ring.held, self.ring.trouble
        return {
            "version": __version__,
            "ready": bool(key and key.valid(datetime.now(UTC))),
            "key": describe_key(key) if key else None,
            "trouble": _told(trouble),
            "service": self._service(),
            "processes": {
                SIGNER: {"pid": os.getpid()},
                QUOTER: self._ping(QUOTER),
                FETCHER: self._ping(FETCHER),
            },
            "challenges": {
                "waiting": self.batcher.waiting,
                "batches": self.batcher.batches,
                "quote_seconds": round(self.batcher.quote_seconds, 3),
            },
            "connections": self.connections(),
            "ssh": self.ssh(),
            "notes": list(self.notes()),
        }

    def _service(self) -> Mapping[str, Any]:
        try:
            return service_state(self.folder).document()
        except TeeAgentError as error:
            return State("unknown", reason=error.message, code=error.code).document()

    def _ping(self, name: str) -> Mapping[str, Any]:
        try:
            return rpc.call(socket_path(self.folder, name), rpc.PING, {}, deadline=Deadline(ASK_SECONDS, name))
        except TeeAgentError as error:
            return {"pid": None, "error": problem.document(error)}


def _told(trouble: TeeAgentError | None) -> dict[str, Any] | None:
    return problem.document(trouble) if trouble else None
