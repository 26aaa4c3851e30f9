"""A strict DER reader, as much as certificates and CRLs need. Definite, shortest lengths; single-byte tags.

Why one of our own: bits that no signature covers (outer lengths, unused bits) must have one spelling only, and AMD's
VCEKs have serial number 0, which the certificate parser of the cryptography package warns about and means to refuse.
Raises FormatError only. Source: ITU-T X.690, section 10.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from agent.core.errors import FormatError

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID = 0x01, 0x02, 0x03, 0x04, 0x06
UTF8_STRING, PRINTABLE_STRING, IA5_STRING, UTC_TIME, GENERALIZED_TIME = 0x0C, 0x13, 0x16, 0x17, 0x18
SEQUENCE, SET = 0x30, 0x31
CONTEXT_0, CONTEXT_3 = 0xA0, 0xA3

_SHOWN_OID = 32
"""Bytes of the longest identifier that is spelled out: a hostile one of megabytes would take hours to write down."""
_STRINGS = {UTF8_STRING: "utf-8", PRINTABLE_STRING: "ascii", IA5_STRING: "ascii"}
_TIMES = {UTC_TIME: 13, GENERALIZED_TIME: 15}


class Reader:
    """Reads elements one after the other from ``data[at:end]``; ``what`` names the object in errors."""

    __slots__ = ("at", "data", "end", "what")

    def __init__(self, data: bytes, what: str, at: int = 0, end: int = -1) -> None:
        self.data, self.what, self.at = data, what, at
        self.end = len(data) if end < 0 else end

    def tag(self) -> int:
        """The next element's tag, -1 at the end."""
        return self.data[self.at] if self.at < self.end else -1

    def inside(self, tag: int) -> Reader:
        """Step over an element with this tag; a reader over its content."""
        start = self._header(tag)
        return Reader(self.data, self.what, start, self.at)

    def each(self, tag: int) -> Iterator[Reader]:
        """Readers over elements with this tag up to the end; the caller must read each of them to its end."""
        while self.at < self.end:
            start = self._header(tag)
            inner = Reader(self.data, self.what, start, self.at)
            yield inner
            if inner.at != inner.end:
                inner.finish()

    def content(self, tag: int) -> bytes:
        """The content of the next element, which has this tag."""
        start = self._header(tag)
        return self.data[start : self.at]

    def element(self, tag: int) -> bytes:
        """The next element, which has this tag, with its header."""
        start = self.at
        self._header(tag)
        return self.data[start : self.at]

    def skip(self) -> None:
        """Step over the next element, whatever it is."""
        self._header(self.tag())

    def finish(self) -> None:
        """Nothing may be left."""
        if self.at != self.end:
            raise self.error(f"{self.end - self.at} unexpected bytes")

    def integer(self) -> int:
        """A non-negative INTEGER in its shortest form."""
        data = self.content(INTEGER)
        if not data or data[0] >= 0x80 or (len(data) > 1 and data[0] == 0 and data[1] < 0x80):
            raise self.error("an INTEGER is empty, negative or not in its shortest form")
        return int.from_bytes(data, "big")

    def boolean(self) -> bool:
        data = self.content(BOOLEAN)
        if data not in (b"\x00", b"\xff"):
            raise self.error("a BOOLEAN is neither 00 nor FF")
        return data == b"\xff"

    def bits(self) -> bytes:
        """A BIT STRING of whole bytes."""
        data = self.content(BIT_STRING)
        if not data or data[0]:
            raise self.error("a BIT STRING is not whole bytes")
        return data[1:]

    def text(self) -> str:
        """A UTF8String, PrintableString or IA5String."""
        tag = self.tag()
        if tag not in _STRINGS:
            raise self.error(f"unexpected kind of string 0x{tag & 0xFF:02x}")
        try:
            return self.content(tag).decode(_STRINGS[tag])
        except UnicodeDecodeError:
            raise self.error("a string has bytes outside its character set") from None

    def time(self) -> datetime:
        """A UTCTime or GeneralizedTime with seconds and Z."""
        size = _TIMES.get(self.tag(), 0)
        data = self.content(self.tag()) if size else b""
        if len(data) != size or data[-1:] != b"Z" or not data[:-1].isdigit():
            raise self.error("not a time in UTC with seconds")
        year = int(data[:-11])
        if size == _TIMES[UTC_TIME]:
            year += 1900 if year >= 50 else 2000  # RFC 5280, 4.1.2.5.1
        month, day, hour, minute, second = (int(data[at : at + 2]) for at in range(size - 11, size - 1, 2))
        try:
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            raise self.error("not a date") from None

    def error(self, problem: str) -> FormatError:
        return FormatError(f"{self.what}: {problem} (byte {self.at})", record=self.what, offset=self.at)

    def _header(self, tag: int) -> int:
        """Step over the next element; where its content starts."""
        data, at, end = self.data, self.at, self.end
        if at + 2 > end:
            raise self.error("ends early")
        if data[at] != tag:
            raise self.error(f"tag 0x{data[at]:02x} where 0x{tag:02x} belongs")
        size = data[at + 1]
        at += 2
        if size >= 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            if not 1 <= count <= 3 or at + count > end or size < 0x80 or size >> 8 * (count - 1) == 0:
                raise self.error("a length is not in its shortest form")
            at += count
        if at + size > end:
            raise self.error("an element is longer than what holds it")
        self.at = at + size
        return at


def dotted(oid: bytes) -> str:
    """An OBJECT IDENTIFIER's content as people write it; "?" for one that is malformed or too long to be shown."""
    if len(oid) > _SHOWN_OID:
        return "?"
    numbers, value = [], 0
    for octet in oid:
        value = value << 7 | octet & 0x7F
        if octet < 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2) if numbers else 0
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]])) if numbers else "?"
