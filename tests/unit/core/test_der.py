"""DER: shortest forms only, every other spelling is a typed error."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509

from agent.core.der import INTEGER, OCTET_STRING, OID, SEQUENCE, SET, Reader, dotted
from agent.core.errors import FormatError


def reader(data: bytes) -> Reader:
    return Reader(data, "thing")


def _sequence(r: Reader) -> Reader:
    return r.inside(SEQUENCE)


def _each(r: Reader) -> list[int]:
    return [inner.integer() for inner in r.each(SEQUENCE)]


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (b"", _sequence),
        (b"\x30", _sequence),
        (b"\x31\x00", _sequence),
        (b"\x30\x01", _sequence),
        (b"\x30\x05\x00", _sequence),
        (b"\x30\x80\x00\x00", _sequence),
        (b"\x30\x81\x01\x00", _sequence),
        (b"\x30\x81\x7f" + bytes(127), _sequence),
        (b"\x30\x82\x00\x80" + bytes(128), _sequence),
        (b"\x30\x84\x01\x00\x00\x00", _sequence),
        (b"\x30\x84" + bytes(9), _sequence),
        (b"\x30\x82\x01", _sequence),
        (b"", Reader.skip),
        (b"\x1f", Reader.skip),
        (b"\x1f\x01", Reader.skip),
        (b"\x30\x04\x02\x01\x07\x00", _each),
        (b"\x30\x03\x02\x01\x07\x00", _each),
        (b"\x30\x03\x02\x01\x07\x02\x01\x07", _each),
        (b"\x02\x00", Reader.integer),
        (b"\x02\x02\x00\x7f", Reader.integer),
        (b"\x02\x02\x00\x01", Reader.integer),
        (b"\x02\x01\x80", Reader.integer),
        (b"\x01\x01\x01", Reader.boolean),
        (b"\x01\x00", Reader.boolean),
        (b"\x03\x00", Reader.bits),
        (b"\x03\x02\x01\x80", Reader.bits),
        (b"\x04\x01a", Reader.text),
        (b"\x13\x01\xe9", Reader.text),
        (b"\x0c\x01\xff", Reader.text),
        (b"\x17\x00", Reader.time),
        (b"\x17\x0b2601010000Z", Reader.time),
        (b"\x17\x0d261301000000Z", Reader.time),
        (b"\x17\x0d260101240000Z", Reader.time),
        (b"\x17\x0d260101 00000Z", Reader.time),
        (b"\x17\x0d260101+00000Z", Reader.time),
        (b"\x17\x0d2601010000000", Reader.time),
        (b"\x17\x0d260601120000+", Reader.time),
        (b"\x17\x0f20260601120000Z", Reader.time),
        (b"\x18\x0d260601120000Z", Reader.time),
        (b"\x18\x1120260601120000.5Z", Reader.time),
        (b"\x18\x0f2026060112000\xb2Z", Reader.time),
        (b"\x18\x0f20260101000061Z", Reader.time),
        (b"\x18\x0f00000101000000Z", Reader.time),
        (b"\x04\x0f20500101000000Z", Reader.time),
        (b"", Reader.time),
        (b"\x00", Reader.finish),
    ],
)
def test_other_spellings_are_refused(data: bytes, read: Callable[[Reader], Any]) -> None:
    with pytest.raises(FormatError, match="thing: "):
        read(reader(data))


def test_the_shortest_form_is_read() -> None:
    outer = reader(b"\x30\x81\x80\x02\x02\x00\x80" + b"\x04\x7a" + bytes(122))
    inner = outer.inside(SEQUENCE)
    outer.finish()
    assert (inner.tag(), inner.integer()) == (INTEGER, 128)
    assert inner.element(OCTET_STRING) == b"\x04\x7a" + bytes(122)
    assert inner.tag() == -1
    assert reader(b"\x01\x01\xff").boolean()
    assert not reader(b"\x01\x01\x00").boolean()
    assert reader(b"\x03\x03\x00ab").bits() == b"ab"
    assert reader(b"\x0c\x02\xc3\xa9").text() == "é"
    assert _each(reader(b"\x30\x03\x02\x01\x07\x30\x03\x02\x01\x08")) == [7, 8]
    assert _each(reader(b"")) == []


def test_stepping_over() -> None:
    items = reader(b"\x1f\x01a\x02\x01\x05")
    items.skip()
    assert items.integer() == 5
    items.finish()


def test_an_inner_element_does_not_reach_beyond_the_outer_one() -> None:
    inside = reader(b"\x30\x02\x04\x02ab").inside(SEQUENCE)
    with pytest.raises(FormatError, match="longer than what holds it"):
        inside.content(OCTET_STRING)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x17\x0d260601120000Z", datetime(2026, 6, 1, 12, tzinfo=UTC)),
        (b"\x17\x0d491231235959Z", datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (b"\x17\x0d500101000000Z", datetime(1950, 1, 1, tzinfo=UTC)),
        (b"\x17\x0d680101000000Z", datetime(1968, 1, 1, tzinfo=UTC)),
        (b"\x18\x0f20500102030405Z", datetime(2050, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
def test_times(data: bytes, expected: datetime) -> None:
    assert reader(data).time() == expected


@pytest.mark.parametrize("text", ["1.2.840.113741.1.13.1", "2.5.29.19", "1.2.3.4", "2.999.1", "0.9"])
def test_dotted(text: str) -> None:
    """Against another encoder: the OID as that of an otherwise empty Name attribute."""
    name = x509.Name([x509.NameAttribute(x509.ObjectIdentifier(text), "x")]).public_bytes()
    oid = reader(name).inside(SEQUENCE).inside(SET).inside(SEQUENCE).content(OID)
    assert dotted(oid) == text
