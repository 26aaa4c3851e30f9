"""What the security monitor writes into the audit log beside keys and denials: how the machine booted, evidence that
could not be had for what callers asked. Severities are docs/audit.md's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent.core.errors import TeeAgentError
from agent.core.model import Evidence, Nonce
from agent.core.ports import Deadline
from agent.quoter import Quotes

Failed = Callable[[str, TeeAgentError], None]


@dataclass(frozen=True, slots=True)
class Event:
    """A record to be written; ``fields`` are text."""

    kind: str
    severity: str
    fields: Mapping[str, str]


def boot_events(report: Mapping[str, Any] | None) -> Iterator[Event]:
    """How early boot went, from what it left (agent.boot.report.read); nothing where it had nothing to open."""
    if report is None:
        return
    for volume in report["volumes"]:
        name, why = str(volume["name"]), {"code": str(volume["code"]), "message": str(volume["message"])}
        if volume["how"] == "attestation":
            yield Event("boot.attested", "info", {"volume": name})
        elif volume["how"] == "passphrase":
            yield Event("boot.passphrase", "alert", {"volume": name, **why})
        elif volume["code"]:
            yield Event("boot.failed", "warning", {"volume": name, **why})


class Telling:
    """agent.quoter.Quotes for what callers ask that tells ``failed`` why there is no evidence, and raises it."""

    def __init__(self, quotes: Quotes, failed: Failed) -> None:
        self._quotes = quotes
        self._failed = failed

    def tas(self, nonce: Nonce, wrapping_key: bytes, *, deadline: Deadline) -> Evidence:
        return self._quotes.tas(nonce, wrapping_key, deadline=deadline)

    def signing_key(
        self, algorithm: str, use: str, spki: bytes, statement_digest: bytes, *, deadline: Deadline
    ) -> Evidence:
        with self._telling("no evidence for a named key"):
            return self._quotes.signing_key(algorithm, use, spki, statement_digest, deadline=deadline)

    def challenge_batch(self, tree_size: int, root: bytes, *, deadline: Deadline) -> Evidence:
        with self._telling("no evidence for challenges"):
            return self._quotes.challenge_batch(tree_size, root, deadline=deadline)

    def collect(self, nonce: bytes, *, deadline: Deadline) -> Evidence:
        return self._quotes.collect(nonce, deadline=deadline)

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except TeeAgentError as error:
            self._failed(what, error)
            raise
