"""Our LUKS2 token: which keyslot is ours, from which secret, and the header's MAC. It never says whom to trust (I4).

Pure. Form (docs/disk.md): ``{"type": "tee-agent", "keyslots": ["1"], "version": 1, "slot": 1, "state": "bound",
"key_id": "...", "generation": 1, "mac": "<64 hex>"}``. While ``state`` is "pending" (the slot is about to be made)
``keyslots`` is empty and ``mac`` too: cryptsetup refuses tokens that name a keyslot which is not there yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from agent.core.canonical import Reader
from agent.core.errors import FormatError, HeaderRefused
from agent.disk.fields import MAX_SLOTS
from agent.disk.metadata import Metadata

TYPE = "tee-agent"
VERSION = 1
MAX_GENERATION = 2**32
_KEYS = frozenset({"type", "keyslots", "version", "slot", "state", "key_id", "generation", "mac"})
_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_STATE = re.compile(r"pending|bound")


@dataclass(frozen=True, slots=True)
class Binding:
    """A token of ours. ``key_id`` is the policy id its secret was fetched with; ``mac`` is empty while pending."""

    slot: int
    key_id: str
    generation: int
    state: Literal["pending", "bound"] = "pending"
    mac: bytes = b""

    def document(self) -> dict[str, Any]:
        """The token's JSON."""
        return {**self.authenticated(), "mac": self.mac.hex()}

    def authenticated(self) -> dict[str, Any]:
        """The token's JSON without its MAC."""
        return {
            "type": TYPE,
            "keyslots": [str(self.slot)] if self.state == "bound" else [],
            "version": VERSION,
            "slot": self.slot,
            "state": self.state,
            "key_id": self.key_id,
            "generation": self.generation,
        }


def find(metadata: Metadata) -> tuple[int, Binding] | None:
    """Our token and its number, None where there is none. Raises HeaderRefused for a bad one, or for two."""
    ours = [(number, value) for number, value in metadata.tokens.items() if value["type"] == TYPE]
    if len(ours) > 1:
        raise HeaderRefused(
            f"tokens {', '.join(str(number) for number, _ in ours)} are all of type {TYPE}",
            hint="remove the one that is not wanted: cryptsetup token remove --token-id N DEVICE",
            code="disk.header.token",
        )
    return (ours[0][0], parse(ours[0][1], ours[0][0])) if ours else None


def next_generation(found: tuple[int, Binding] | None) -> int:
    """The generation of a binding that follows ``found``; the disk proposes the old one, so it may be anything."""
    return found[1].generation % MAX_GENERATION + 1 if found else 1


def parse(value: Mapping[str, Any], number: int) -> Binding:
    """The token in ``value``; ``number`` is for messages. Raises HeaderRefused."""
    try:
        reader = Reader(value, f"token {number}", _KEYS)
        reader.integer("version", VERSION, VERSION)
        state = cast(Literal["pending", "bound"], reader.text("state", 16, _STATE, "pending or bound"))
        mac = reader.hexadecimal("mac", *((32, 32) if state == "bound" else (0, 0)))
        binding = Binding(
            slot=reader.integer("slot", 0, MAX_SLOTS - 1),
            key_id=reader.text("key_id", 128, _KEY_ID, "a policy id"),
            generation=reader.integer("generation", 1, MAX_GENERATION),
            state=state,
            mac=mac,
        )
    except FormatError as error:
        raise HeaderRefused(f"LUKS2 header: {error.message}", code="disk.header.token") from error
    # cryptsetup itself empties "keyslots" when the slot is wiped: that token is stale, not malformed.
    if value["keyslots"] not in (binding.authenticated()["keyslots"], []):
        raise HeaderRefused(
            f"LUKS2 header: token {number} names a keyslot that is not its own", code="disk.header.token"
        )
    return binding
