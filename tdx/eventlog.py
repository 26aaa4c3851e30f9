"""What an event log explains: replayed, it must give the RTMRs that the hardware signed.

An RTMR starts as 48 zero bytes and is extended as SHA-384(value || digest) (Intel TDX Module Base Architecture
Specification, TDG.MR.RTMR.EXTEND). A replay that gives the quote's values shows that these digests, in this order,
and no others, were extended. It shows nothing about an event's type, nor about data that its digest does not cover:
tdx.eventdata tells which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tdx.ccel import parse as parse_ccel
from tdx.event import DIGEST_SIZE, REGISTERS, Event
from tdx.eventjson import parse_json

START = bytes(DIGEST_SIZE)
"""An RTMR that nothing was extended into."""
Status = Literal["matches", "differs", "no events"]


@dataclass(frozen=True, slots=True)
class Log:
    """A parsed log. ``form`` is "ccel" or "json"."""

    form: Literal["ccel", "json"]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Register:
    """The verdict on one RTMR. ``no events``: the log has none for it, and it is zero as it should be."""

    index: int
    status: Status
    replayed: bytes
    actual: bytes
    events: int
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.status != "differs"


def parse(data: bytes) -> Log:
    """A CCEL area or a JSON log, told apart by the first byte. Raises Truncated, Oversized, FormatError."""
    if data.lstrip()[:1] in (b"[", b"{"):
        return Log("json", parse_json(data))
    return Log("ccel", parse_ccel(data))


def extend(value: bytes, digest: bytes) -> bytes:
    """The register's value after one extension (48 bytes each)."""
    return hashlib.sha384(value + digest).digest()


def replay(events: Iterable[Event]) -> dict[int, bytes]:
    """The value of each RTMR (0 to 3, 48 bytes) after these events."""
    values = dict.fromkeys(REGISTERS, START)
    for event in events:
        if event.extended and event.register is not None:
            values[event.register] = extend(values[event.register], event.digest)
    return values


def compare(events: Sequence[Event], actual: Mapping[int, bytes]) -> tuple[Register, ...]:
    """Each RTMR of ``actual`` (index to 48 bytes) against the replay, in order."""
    return tuple(_register(index, events, actual[index]) for index in sorted(actual))


def _register(index: int, events: Sequence[Event], actual: bytes) -> Register:
    own = [event for event in events if event.register == index and event.extended]
    value, last = START, None
    for event in own:
        if value == actual:
            last = event.number
        value = extend(value, event.digest)
    if value == actual:
        return Register(index, "matches" if own else "no events", value, actual, len(own))
    if last is not None:
        detail = f"its value is the one before event {last}: the log goes on after it was read"
    elif own:
        detail = "the log is not of this boot, was changed, or something was extended and not logged"
    else:
        detail = "the log has no events for it, and it is not zero: something was extended and not logged"
    return Register(index, "differs", value, actual, len(own), detail)
