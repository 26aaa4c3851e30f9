"""The CBOR that our formats are made of, with one byte form for each value (RFC 8949 section 4.2.1).

Integers, byte and text strings, arrays, maps, tags, true, false and null; no floats, no indefinite lengths. A codec of
our own because that form is the whole point: cbor2 sorts map keys by length first (RFC 7049), and turns tags of hostile
input into dates, patterns and numbers of any size. ``decode`` encodes what it read and compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.core.errors import FormatError, Oversized, Truncated

MAX_DEPTH = 8
"""Deepest nesting that is written or taken."""
MAX_ITEMS = 1024
"""Most values in one document: those that we define have a few dozen."""
MAX_INTEGER = 2**63 - 1

_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_SIMPLES = {20: False, 21: True, 22: None}
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged value."""

    number: int
    value: Any


def encode(value: Any) -> bytes:
    """The one encoding of ``value`` (int, bytes, str, bool, None, list, tuple, dict, Tag). Raises FormatError."""
    return _encode(value, 0)


def _encode(value: Any, depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise FormatError(f"CBOR: nested more than {MAX_DEPTH} deep", code="format.cbor")
    for number, simple in _SIMPLES.items():
        if value is simple:
            return _head(_SIMPLE, number)
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, bytes):
        return _head(_BYTES, len(value)) + value
    if isinstance(value, str):
        return _text(value)
    return _container(value, depth)


def _container(value: Any, depth: int) -> bytes:
    if isinstance(value, list | tuple):
        return _head(_ARRAY, len(value)) + b"".join(_encode(item, depth + 1) for item in value)
    if isinstance(value, dict):
        pairs = sorted((_encode(key, depth + 1), _encode(item, depth + 1)) for key, item in value.items())
        return _head(_MAP, len(pairs)) + b"".join(key + item for key, item in pairs)
    if isinstance(value, Tag):
        return _head(_TAG, value.number) + _encode(value.value, depth + 1)
    raise FormatError(f"CBOR: {type(value).__name__} is not used", code="format.cbor")


def _integer(value: int) -> bytes:
    if not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
        raise FormatError("CBOR: an integer has more than 64 bits", code="format.cbor")
    return _head(_UINT, value) if value >= 0 else _head(_NEGATIVE, -1 - value)


def _text(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise FormatError("CBOR: text that is not Unicode", code="format.cbor") from error
    return _head(_TEXT, len(data)) + data


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for extra, width in _WIDTHS.items():
        if number < 1 << 8 * width:
            return bytes([major << 5 | extra]) + number.to_bytes(width, "big")
    raise FormatError("CBOR: a number has more than 64 bits", code="format.cbor")


def decode(data: bytes, what: str, limit: int) -> Any:
    """The value of which ``data`` is the one encoding; at most ``limit`` bytes. Arrays are lists, map keys int or str.

    Raises FormatError (code ``format.cbor``, or ``format.canonical`` for another encoding), Truncated, Oversized.
    """
    if len(data) > limit:
        raise Oversized(f"{what} has more than {limit} bytes", record=what, expected=f"at most {limit} bytes")
    reader = _Reader(data, what)
    value = reader.value(0)
    if reader.at != len(data):
        raise Oversized(f"{what}: {len(data) - reader.at} bytes after its end", record=what, offset=reader.at)
    if encode(value) != data:
        raise FormatError(
            f"{what} is not in canonical form (RFC 8949, section 4.2.1)", record=what, code="format.canonical"
        )
    return value


class _Reader:
    """Lenient about order, repeated keys and the size of numbers: decode settles them by comparison."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what, self.at, self.items = data, what, 0, 0

    def value(self, depth: int) -> Any:
        self.items += 1
        if depth > MAX_DEPTH or self.items > MAX_ITEMS:
            raise self._error("too many values, or too deep")
        major, number = self._head()
        if major in (_UINT, _NEGATIVE):
            return number if major == _UINT else -1 - number
        if major in (_BYTES, _TEXT):
            return self._string(major, number)
        if major == _ARRAY:
            return [self.value(depth + 1) for _ in range(number)]
        if major == _MAP:
            return self._map(number, depth)
        if major == _TAG:
            return Tag(number, self.value(depth + 1))
        if number not in _SIMPLES:
            raise self._error("neither true, false nor null")
        return _SIMPLES[number]

    def _head(self) -> tuple[int, int]:
        first = self._take(1)[0]
        major, extra = first >> 5, first & 31
        if extra < 24:
            return major, extra
        if extra not in _WIDTHS:
            raise self._error("an indefinite or reserved length")
        return major, int.from_bytes(self._take(_WIDTHS[extra]), "big")

    def _string(self, major: int, size: int) -> bytes | str:
        content = self._take(size)
        if major == _BYTES:
            return content
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise self._error("text that is not UTF-8") from error

    def _map(self, size: int, depth: int) -> dict[int | str, Any]:
        found: dict[int | str, Any] = {}
        for _ in range(size):
            key = self.value(depth + 1)
            if not isinstance(key, int | str) or isinstance(key, bool):
                raise self._error("a map key that is neither integer nor text")
            found[key] = self.value(depth + 1)
        return found

    def _take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise Truncated(f"{self.what} is truncated: {len(self.data)} bytes", record=self.what, offset=self.at)
        start, self.at = self.at, self.at + size
        return self.data[start : self.at]

    def _error(self, problem: str) -> FormatError:
        return FormatError(f"{self.what}: {problem}", record=self.what, offset=self.at, code="format.cbor")
