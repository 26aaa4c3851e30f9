"""The bytes of a CCEL: ACPI table, and the crypto-agile event log in the area that it points to.

Sources: TCG PC Client Platform Firmware Profile Specification 1.06, sections 10.2.1 (TCG_PCClientPCREvent, the
first entry, with TCG_EfiSpecIdEvent) and 10.2.2 (TCG_PCR_EVENT2); ACPI 6.5, section 5.2.34 (CCEL).
Layout: one old-style entry "Spec ID Event03" that lists the digest algorithms, then events, then padding: 0xFF
(as TDX firmware writes it) or zero, to the end of the area. All integers are little endian.
Decides form only: what the events prove is tdx.eventlog's business.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Self

from agent.core.errors import FormatError, Oversized, Truncated, UnsupportedVersion
from agent.core.wire import Record, raw, uint
from tdx.event import DIGEST_SIZE, NO_ACTION, REGISTERS, Event
from tdx.eventread import Cursor

MAX_AREA = 4 << 20
"""Bytes of an area at the most; firmware sets aside 64 to 256 KiB."""
MAX_EVENTS = 1 << 14
SHA384 = 0x000C
"""TPM_ALG_ID; the only one that extends an RTMR."""
TYPE_TDX = 2

_TITLE = "event log"
_SIGNATURE = b"Spec ID Event03\0"
_SIZES: Mapping[int, int] = {0x0004: 20, 0x000B: 32, SHA384: DIGEST_SIZE, 0x000D: 64, 0x0012: 32}
_MAX_ALGORITHMS = 8
_MAX_DIGEST = 128
_ENDS = (b"\xff" * 4, b"\0" * 4)


class Table(Record, size=56, title="CCEL table"):
    """The ACPI table. ``log_length`` (bytes) and ``log_address`` (physical) are the area's."""

    signature = raw(0, 4)
    length = uint(4, 32)
    revision = uint(8, 8)
    checksum = uint(9, 8)
    oem_id = raw(10, 6)
    oem_table_id = raw(16, 8)
    oem_revision = uint(24, 32)
    creator_id = raw(28, 4)
    creator_revision = uint(32, 32)
    cc_type = uint(36, 8)
    cc_subtype = uint(37, 8)
    log_length = uint(40, 64)
    log_address = uint(48, 64)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The table of a TDX guest. Raises Truncated, Oversized, UnsupportedVersion, FormatError."""
        table = super().parse(data)
        if table.signature != b"CCEL" or table.length != cls.SIZE or sum(data) & 0xFF:
            raise FormatError("not a CCEL table: signature, length or checksum is wrong", record=cls.TITLE, offset=0)
        if table.cc_type != TYPE_TDX:
            raise UnsupportedVersion(f"CCEL of type {table.cc_type}: only TDX (2) is known", record=cls.TITLE)
        return table


class Head(Record, size=32, title="event log header"):
    """TCG_PCClientPCREvent of the first entry: its SHA-1 digest (bytes 8 to 27) is all zero."""

    index = uint(0, 32)
    kind = uint(4, 32)
    size = uint(28, 32)


class SpecId(Record, size=28, title="Spec ID event"):
    """TCG_EfiSpecIdEvent up to the list of algorithms."""

    signature = raw(0, 16)
    platform_class = uint(16, 32)
    minor = uint(20, 8)
    major = uint(21, 8)
    errata = uint(22, 8)
    uintn_size = uint(23, 8)
    algorithms = uint(24, 32)


def parse(area: bytes) -> tuple[Event, ...]:
    """All events, the header being number 1. Raises Truncated, Oversized, UnsupportedVersion, FormatError."""
    if len(area) > MAX_AREA:
        raise Oversized(f"{_TITLE} has {len(area)} bytes, {MAX_AREA} are allowed", record=_TITLE, offset=MAX_AREA)
    cursor = Cursor(area, _TITLE)
    first, sizes = _header(cursor)
    events = [first]
    while not _at_end(cursor):
        if len(events) == MAX_EVENTS:
            raise Oversized(f"{_TITLE} has more than {MAX_EVENTS} events", record=_TITLE, offset=cursor.at)
        events.append(_event(cursor, sizes, len(events) + 1))
    return tuple(events)


def _header(cursor: Cursor) -> tuple[Event, Mapping[int, int]]:
    head = Head.parse_prefix(cursor.take(min(Head.SIZE, cursor.left), "header"))
    if head.kind != NO_ACTION:
        raise FormatError(f"{_TITLE} begins with event type 0x{head.kind:x}, not EV_NO_ACTION", record=_TITLE, offset=4)
    data = cursor.take(head.size, "Spec ID event")
    event = Event(1, _register(head.index, NO_ACTION, 0), NO_ACTION, bytes(DIGEST_SIZE), data)
    return event, _algorithms(data)


def _algorithms(data: bytes) -> Mapping[int, int]:
    """Digest sizes by algorithm, as the Spec ID event says them."""
    spec = SpecId.parse_prefix(data)
    if spec.signature != _SIGNATURE:
        raise UnsupportedVersion(
            f"{_TITLE} begins with {spec.signature!r}, not with Spec ID Event03", record=SpecId.TITLE, offset=32
        )
    if not 1 <= spec.algorithms <= _MAX_ALGORITHMS:
        raise FormatError(f"Spec ID event: {spec.algorithms} digest algorithms", record=SpecId.TITLE, offset=24)
    cursor = Cursor(data, SpecId.TITLE, SpecId.SIZE)
    listed = [(cursor.number(2, "algorithm"), cursor.number(2, "digest size")) for _ in range(spec.algorithms)]
    sizes = dict(listed)
    if len(sizes) != len(listed) or any(size != _SIZES.get(name, size) for name, size in listed):
        raise FormatError("Spec ID event: an algorithm twice, or with another's size", record=SpecId.TITLE)
    if not all(1 <= size <= _MAX_DIGEST for size in sizes.values()):
        raise FormatError(f"Spec ID event: digests of 1 to {_MAX_DIGEST} bytes are expected", record=SpecId.TITLE)
    if SHA384 not in sizes:
        raise FormatError("Spec ID event: no SHA-384, which extends the RTMRs", record=SpecId.TITLE)
    cursor.take(cursor.number(1, "vendor information size"), "vendor information")
    if cursor.left:
        raise Oversized(f"Spec ID event: {cursor.left} bytes too many", record=SpecId.TITLE, offset=cursor.at)
    return sizes


def _at_end(cursor: Cursor) -> bool:
    """Whether only padding is left. An event can't look like it: its index is 0 to 4, and 0 with a type of 3 only."""
    rest = cursor.data[cursor.at : cursor.at + 8]
    if len(rest) == 8 and rest[:4] != _ENDS[0] and rest != _ENDS[1] * 2:
        return False
    left = cursor.data[cursor.at :]
    if left not in (b"\xff" * len(left), bytes(len(left))):
        kind = Truncated if len(rest) < 8 else FormatError
        raise kind(f"{_TITLE}: neither event nor padding at offset {cursor.at}", record=_TITLE, offset=cursor.at)
    return True


def _event(cursor: Cursor, sizes: Mapping[int, int], number: int) -> Event:
    start = cursor.at
    index, kind = cursor.number(4, "register index"), cursor.number(4, "event type")
    count = cursor.number(4, "digest count")
    if count != len(sizes):
        raise FormatError(
            f"event {number} has {count} digests, the header announces {len(sizes)}", record=_TITLE, offset=start + 8
        )
    digests = {}
    for _ in range(count):
        algorithm = cursor.number(2, "digest algorithm")
        if algorithm not in sizes or algorithm in digests:
            problem = f"event {number}: digest algorithm 0x{algorithm:04x} is not announced, or occurs twice"
            raise FormatError(problem, record=_TITLE, offset=cursor.at - 2)
        digests[algorithm] = cursor.take(sizes[algorithm], "digest")
    data = cursor.take(cursor.number(4, "event size"), f"data of event {number}")
    return Event(number, _register(index, kind, start), kind, digests[SHA384], data)


def _register(index: int, kind: int, offset: int) -> int | None:
    if index - 1 in REGISTERS:
        return index - 1
    if index == 0 and kind == NO_ACTION:
        return None
    raise FormatError(f"{_TITLE}: register index {index}; RTMRs have 1 to 4", record=_TITLE, offset=offset)


def build(events: Iterable[Event], size: int = 0) -> bytes:
    """An area with these events behind a header of its own, SHA-384 only, filled up to ``size`` with 0xFF.

    The mirror of ``parse(area)[1:]``: an event's number is not written. Raises Oversized when ``size`` is too small.
    """
    spec = SpecId.build(signature=_SIGNATURE, minor=0, major=2, uintn_size=2, algorithms=1).data
    spec += struct.pack("<HHB", SHA384, DIGEST_SIZE, 0)
    parts = [Head.build(index=1, kind=NO_ACTION, size=len(spec)).data, spec]
    for event in events:
        index = 0 if event.register is None else event.register + 1
        parts += [struct.pack("<IIIH", index, event.kind, 1, SHA384), event.digest]
        parts += [struct.pack("<I", len(event.data)), event.data]
    area = b"".join(parts)
    if size and len(area) > size:
        raise Oversized(f"{_TITLE} has {len(area)} bytes, the area {size}", record=_TITLE)
    return area.ljust(size, b"\xff")
