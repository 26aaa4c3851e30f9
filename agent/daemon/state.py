"""What the fetcher knows about the attestation service, as it tells the signer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from agent.core.canonical import Reader


@dataclass(frozen=True, slots=True)
class State:
    """What is known about the service. ``state``: not-configured | checking | reachable | unreachable.

    Times are RFC 3339 in UTC, "" where it never happened; ``nonce`` is the newest one, also of earlier checks.
    ``heads`` says what became of the last audit head sent: "" (none was), kept, not-kept (the service does not take
    them), refused, failed; the reason of the last two is in ``head_reason``.
    """

    state: str
    url: str = ""
    version: str = ""
    nonce: str = ""
    nonce_at: str = ""
    checked_at: str = ""
    reason: str = ""
    code: str = ""
    heads: str = ""
    head_at: str = ""
    head_reason: str = ""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def state_from(document: dict[str, Any]) -> State:
    """The way back. Raises FormatError."""
    names = frozenset(State.__dataclass_fields__)
    fields = Reader(document, "state of the service", names)
    return State(**{name: fields.text(name, 2048) for name in names})
