"""Event logs, both forms: writer and parser mirror each other, every damage is found or harmless, all is bounded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FormatError, Oversized, Truncated, UnsupportedVersion
from tdx import ccel, eventlog
from tdx import event as ev
from tdx.event import Event
from tdx.eventdata import coverage
from tdx.eventwords import words
from tests.unit.tdx.logs import events, sha384

HEADER = 32 + 33
"""Bytes before the first event of a log that we build."""
DIGESTS = st.binary(min_size=48, max_size=48)
EVENTS = st.builds(
    lambda register, kind, digest, data: Event(0, register, kind, digest, data),
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([*ev.NAMES, 0x12345678]),
    DIGESTS,
    st.binary(max_size=80),
)


def numbered(made: list[Event]) -> tuple[Event, ...]:
    return tuple(replace(event, number=number) for number, event in enumerate(made, 2))


def patched(at: int, value: bytes) -> bytes:
    data = bytearray(ccel.build(events()))
    data[at : at + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize("size", [0, 4096])
def test_what_is_built_is_read(size: int) -> None:
    area = ccel.build(events(), size)
    assert len(area) == (size or len(ccel.build(events())))
    assert ccel.parse(area)[1:] == tuple(events())
    assert eventlog.parse(area).form == "ccel"


@given(st.lists(EVENTS, max_size=12), st.integers(0, 64))
def test_any_events(made: list[Event], padding: int) -> None:
    area = ccel.build(made) + b"\xff" * padding
    parsed = ccel.parse(area)
    assert parsed[1:] == numbered(made)
    assert ccel.build(parsed[1:]) + b"\xff" * padding == area
    assert [type(words(event)) for event in parsed] == [str] * len(parsed)


@pytest.mark.parametrize("padding", [b"", b"\xff", b"\xff" * 7, b"\xff" * 9000, bytes(3), bytes(8), bytes(5000)])
def test_padding(padding: bytes) -> None:
    assert ccel.parse(ccel.build(events()) + padding)[1:] == tuple(events())


@pytest.mark.parametrize(
    "rest", [b"\xff" * 8 + b"\0", bytes(8) + b"\xff", b"\xff\xff\xff\xff\0\0\0\0", bytes(11) + b"\1"]
)
def test_anything_behind_the_last_event_is_padding_or_an_error(rest: bytes) -> None:
    with pytest.raises(FormatError, match="neither event nor padding"):
        ccel.parse(ccel.build(events()) + rest)


def test_every_truncation_is_found_but_between_two_events() -> None:
    area, ends, at = ccel.build(events()), {HEADER}, HEADER
    for event in events():
        # The zeros of index 0 (never extended) can't be told from padding.
        ends.update(range(at, at + 5) if event.register is None else [at])
        at += 12 + 50 + 4 + len(event.data)
    for size in range(len(area)):
        if size in ends:
            assert len(ccel.parse(area[:size])) - 1 < len(events())
            continue
        with pytest.raises(Truncated):
            ccel.parse(area[:size])


def test_every_flipped_bit_is_an_error_or_changes_no_more_than_it_says() -> None:
    area = ccel.build(events(), 1400)
    wanted = eventlog.replay(events())
    told = 0
    for bit in range(len(area) * 8):
        flipped = bytearray(area)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = ccel.parse(bytes(flipped))
        except FormatError:
            told += 1
            continue
        for event in found:
            coverage(event)
            words(event)
        if eventlog.replay(found) == wanted:
            kept = [(e.register, e.digest) for e in found if e.extended]
            assert kept == [(e.register, e.digest) for e in events() if e.extended]
    assert told > len(area)


@pytest.mark.parametrize(
    ("at", "value", "error", "message"),
    [
        (0, b"", None, ""),
        (4, struct.pack("<I", 4), FormatError, "not EV_NO_ACTION"),
        (8, b"\1", FormatError, "reserved bytes"),
        (28, struct.pack("<I", 0xFFFFFFFF), Truncated, "Spec ID event has 4294967295 bytes"),
        (32, b"Spec ID Event02\0", UnsupportedVersion, "not with Spec ID Event03"),
        (56, struct.pack("<I", 0), FormatError, "0 digest algorithms"),
        (56, struct.pack("<I", 0xFFFFFFFF), FormatError, "4294967295 digest algorithms"),
        (60, struct.pack("<HH", 12, 32), FormatError, "another's size"),
        (60, struct.pack("<HH", 0x99, 0), FormatError, "digests of 1 to 128"),
        (60, struct.pack("<HH", 0x99, 0xFFFF), FormatError, "digests of 1 to 128"),
        (60, struct.pack("<HH", 11, 32), FormatError, "no SHA-384"),
        (64, b"\1", Truncated, "vendor information"),
        (HEADER, struct.pack("<I", 0), FormatError, "register index 0"),
        (HEADER, struct.pack("<I", 5), FormatError, "register index 5"),
        (HEADER, struct.pack("<I", 0xFFFFFFFE), FormatError, "register index 4294967294"),
        (HEADER + 8, struct.pack("<I", 0xFFFFFFFF), FormatError, "has 4294967295 digests"),
        (HEADER + 8, struct.pack("<I", 0), FormatError, "has 0 digests"),
        (HEADER + 12, struct.pack("<H", 11), FormatError, "0x000b is not announced"),
        (HEADER + 62, struct.pack("<I", 0xFFFFFFFF), Truncated, "data of event 2 has 4294967295 bytes"),
    ],
)
def test_hostile_fields(at: int, value: bytes, error: type[FormatError] | None, message: str) -> None:
    if error is None:
        assert ccel.parse(patched(at, value))
        return
    with pytest.raises(error, match=message):
        ccel.parse(patched(at, value))


def two_algorithms(listed: list[tuple[int, int]], used: list[int]) -> bytes:
    spec = ccel.SpecId.build(signature=b"Spec ID Event03\0", major=2, algorithms=len(listed)).data
    spec += b"".join(struct.pack("<HH", *row) for row in listed) + b"\2ab"
    digests = b"".join(struct.pack("<H", name) + bytes([name]) * dict(listed)[name] for name in used)
    event = struct.pack("<III", 2, ev.ACTION, len(used)) + digests + struct.pack("<I", 2) + b"ok"
    return ccel.Head.build(index=0, kind=ev.NO_ACTION, size=len(spec)).data + spec + event


def test_other_algorithms_stand_beside_sha_384() -> None:
    (header, event) = ccel.parse(two_algorithms([(11, 32), (12, 48), (0x77, 5)], [0x77, 12, 11]))
    assert (header.register, event.register, event.digest, event.data) == (None, 1, b"\x0c" * 48, b"ok")
    with pytest.raises(FormatError, match="occurs twice"):
        ccel.parse(two_algorithms([(11, 32), (12, 48)], [12, 12]))
    with pytest.raises(FormatError, match="an algorithm twice"):
        ccel.parse(two_algorithms([(12, 48), (12, 48)], [12, 12]))
    with pytest.raises(FormatError, match="has 1 digests, the header announces 2"):
        ccel.parse(two_algorithms([(11, 32), (12, 48)], [12]))


def test_bounds() -> None:
    with pytest.raises(Oversized, match="are allowed"):
        ccel.parse(bytes(ccel.MAX_AREA + 1))
    many = [Event(0, 0, ev.ACTION, bytes(48), b"")] * ccel.MAX_EVENTS
    with pytest.raises(Oversized, match="more than 16384 events"):
        ccel.parse(ccel.build(many))
    assert len(ccel.parse(ccel.build(many[1:]))) == ccel.MAX_EVENTS
    with pytest.raises(Oversized, match="the area 100"):
        ccel.build(events(), 100)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    for given_bytes in (data, ccel.build(events())[: HEADER + 12] + data, b"[" + data):
        try:
            eventlog.parse(given_bytes)
        except FormatError:
            continue


def table(**fields: Any) -> bytes:
    values = {"signature": b"CCEL", "length": 56, "revision": 1, "cc_type": 2, "log_length": 65536, **fields}
    made = ccel.Table.build(**values)
    return made.replace(checksum=(made.checksum - sum(made.data)) & 0xFF).data


def test_acpi_table() -> None:
    assert ccel.Table.parse(table(log_address=0x1234)).log_address == 0x1234
    for data, error in (
        (table()[:-1], Truncated),
        (table() + b"\0", Oversized),
        (table(cc_type=1), UnsupportedVersion),
        (table(signature=b"TPM2"), FormatError),
        (table(length=57), FormatError),
        (table()[:-1] + b"\1", FormatError),
    ):
        with pytest.raises(error):
            ccel.Table.parse(data)


def as_json(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows).encode()


def row(**changes: Any) -> dict[str, Any]:
    made = {"imr": 3, "event_type": ev.DSTACK_RUNTIME, "digest": "ab" * 48, "event": "app", "event_payload": "6f6b"}
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def test_json() -> None:
    log = eventlog.parse(b" \n" + as_json([row(), row(event=None, event_payload=None, imr=0, note=[1, {}])]))
    assert log.form == "json"
    assert log.events == (
        Event(1, 3, ev.DSTACK_RUNTIME, b"\xab" * 48, b"ok", "app"),
        Event(2, 0, ev.DSTACK_RUNTIME, b"\xab" * 48, b""),
    )
    assert eventlog.parse(b"[]").events == ()


@pytest.mark.parametrize(
    "data",
    [
        b"[",
        b"{}",
        b"[1]",
        b"[null]",
        b"[[]]",
        b"[]]",
        b'[], "x": []',
        b'[]} , {"a": []',
        b"[" * 100_000,
        b'[{"imr":0,"imr":0}]',
        as_json([row(imr=4)]),
        as_json([row(imr=-1)]),
        as_json([row(imr=True)]),
        as_json([row(imr=None)]),
        as_json([row(imr=1.0)]),
        as_json([row(event_type=1 << 32)]),
        as_json([row(event_type=ev.NO_ACTION)]),
        as_json([row(digest="ab" * 32)]),
        as_json([row(digest="AB" * 48)]),
        as_json([row(digest=None)]),
        as_json([row(event="a\nb")]),
        as_json([row(event="a" * 257)]),
        as_json([row(event_payload="zz")]),
        as_json([row(event_payload="00" * ((1 << 16) + 1))]),
        as_json([row()] * 4097),
        b"[" + b" " * (1 << 20) + b"]",
        b"[\xff]",
        b'[{"imr":' + b"9" * 5000 + b"}]",
    ],
)
def test_json_that_is_no_log(data: bytes) -> None:
    with pytest.raises(FormatError):
        eventlog.parse(data)


def test_replay() -> None:
    first, second = sha384(b"1"), sha384(b"2")
    made = [
        Event(2, 0, ev.ACTION, first, b""),
        Event(3, 0, ev.NO_ACTION, second, b""),
        Event(4, 2, ev.IPL, second, b""),
    ]
    values = eventlog.replay(made)
    assert values == {
        0: sha384(bytes(48) + first),
        1: bytes(48),
        2: sha384(bytes(48) + second),
        3: bytes(48),
    }
    assert eventlog.extend(values[0], second) == sha384(values[0] + second)


def one(change: Callable[[dict[int, bytes]], None], index: int) -> eventlog.Register:
    values = eventlog.replay(events())
    change(values)
    return eventlog.compare(events(), values)[index]


def test_compare() -> None:
    verdicts = eventlog.compare(events(), eventlog.replay(events()))
    assert [(v.index, v.status, v.events, v.ok) for v in verdicts] == [
        (0, "matches", 3, True),
        (1, "matches", 1, True),
        (2, "matches", 2, True),
        (3, "no events", 0, True),
    ]
    changed = one(lambda values: values.update({1: b"\1" * 48}), 1)
    assert (changed.status, changed.ok, changed.actual) == ("differs", False, b"\1" * 48)
    assert "not of this boot" in changed.detail
    unlogged = one(lambda values: values.update({3: b"\1" * 48}), 3)
    assert (unlogged.status, unlogged.ok) == ("differs", False)
    assert "it is not zero" in unlogged.detail
    early = one(lambda values: values.update({2: eventlog.extend(bytes(48), events()[5].digest)}), 2)
    assert (early.status, early.ok) == ("differs", False)
    assert "before event 8" in early.detail
    assert [v.index for v in eventlog.compare(events(), {2: bytes(48)})] == [2]
