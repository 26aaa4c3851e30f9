"""JSON event logs as dstack writes them: a list of objects, one per event, with the digests as extended.

Members: ``imr`` 0 to 3 (the RTMR), ``event_type``, ``digest`` (48 bytes, hex), and, where they are, ``event`` (a name)
and ``event_payload`` (hex). Other members are not looked at: nothing rests on them.
"""

from __future__ import annotations

from typing import Any

from agent.core.canonical import Reader, parse
from agent.core.errors import FormatError, Oversized
from tdx.event import DIGEST_SIZE, NO_ACTION, Event

MAX_JSON = 1 << 20
"""Bytes of a JSON log at the most."""
MAX_EVENTS = 1 << 12

_TITLE = "JSON event log"
_DEFAULTS = {"event": "", "event_payload": ""}
_KEYS = frozenset({"imr", "event_type", "digest", *_DEFAULTS})
_MAX_NAME = 256
_MAX_PAYLOAD = 1 << 16


def parse_json(data: bytes) -> tuple[Event, ...]:
    """All events. Raises Oversized, FormatError."""
    if len(data) > MAX_JSON:
        raise Oversized(f"{_TITLE} has more than {MAX_JSON} bytes", record=_TITLE, offset=MAX_JSON)
    # The strict reader takes objects: the list becomes the one member of one.
    document = parse(b'{"events":' + data + b"}", _TITLE, MAX_JSON + 16)
    items = document["events"]
    if len(document) != 1 or not isinstance(items, list):
        raise FormatError(f"{_TITLE} is not a list", record=_TITLE)
    if len(items) > MAX_EVENTS:
        raise Oversized(f"{_TITLE} has more than {MAX_EVENTS} events", record=_TITLE)
    return tuple(_event(item, number) for number, item in enumerate(items, 1))


def _event(item: Any, number: int) -> Event:
    what = f"{_TITLE}: event {number}"
    known = {key: item[key] for key in _KEYS & item.keys()} if isinstance(item, dict) else item
    reader = Reader(_DEFAULTS | known if isinstance(known, dict) else known, what, _KEYS)
    register, kind = reader.integer("imr", 0, 3), reader.integer("event_type", 0, 0xFFFFFFFF)
    if kind == NO_ACTION:
        raise FormatError(f"{what}: EV_NO_ACTION has no place in a log of extended digests", record=_TITLE)
    digest, data = reader.hexadecimal("digest", DIGEST_SIZE), reader.hexadecimal("event_payload", 0, _MAX_PAYLOAD)
    return Event(number, register, kind, digest, data, reader.text("event", _MAX_NAME))
