"""What the security monitor writes into the audit log beside keys and denials: how the machine booted, evidence that
could not be had for what callers asked. Severities are docs/audit.md's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.core.errors import TeeAgentError
from agent.core.model import Evidence
from agent.daemon.around import CHALLENGE_BATCH, SIGNING_KEY, Around, Ask
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


_WHAT = {SIGNING_KEY: "no evidence for a named key", CHALLENGE_BATCH: "no evidence for challenges"}


class Telling(Around):
    """Quotes for what callers ask that tell ``failed`` why there is no evidence, and raise it."""

    def __init__(self, quotes: Quotes, failed: Failed) -> None:
        super().__init__(quotes)
        self._failed = failed

    def around(self, purpose: str, ask: Ask) -> Evidence:
        try:
            return ask()
        except TeeAgentError as error:
            if purpose in _WHAT:
                self._failed(_WHAT[purpose], error)
            raise
