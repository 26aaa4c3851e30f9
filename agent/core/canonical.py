"""Canonical JSON (RFC 8785), and the strict reading of it: one document has one byte form, and only that is taken.

``decode`` re-encodes what it read and compares, so white space, key order, duplicate keys, escapes and number forms
are all settled by one comparison. Floats are not used in any document of ours and are refused.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any, Never

import rfc8785

from agent.core.errors import FormatError, Oversized

MAX_INTEGER = 2**53 - 1
"""The largest integer that JSON carries exactly."""
MAX_DEPTH = 32
"""Deepest nesting that is written or taken."""
# C0 and C1 controls, line separators, bidirectional overrides: nothing that could repaint a terminal.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_dumps = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False).encode
_HEX = re.compile(r"[0-9a-f]*", re.ASCII)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)


def encode(value: Any) -> bytes:
    """The canonical bytes of a JSON value. Raises FormatError for what JSON, or decode, would not take."""
    _require_plain(value, 0)
    text = _dumps(value)
    # In ASCII the standard encoder agrees with RFC 8785; beyond, keys may sort differently. A signer needs its speed.
    if text.isascii():
        return text.encode("ascii")
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError) as error:
        raise FormatError(f"not expressible as canonical JSON: {error}", code="format.json") from error


def _require_plain(value: Any, depth: int) -> None:
    kind = type(value)
    if isinstance(value, str) or kind is bool or value is None:
        return
    if kind is int and -MAX_INTEGER <= value <= MAX_INTEGER:
        return
    if kind not in (dict, list, tuple) or depth >= MAX_DEPTH:
        problem = f"nested more than {MAX_DEPTH} deep" if depth >= MAX_DEPTH else f"{kind.__name__} out of range"
        raise FormatError(f"not expressible as canonical JSON: {problem}", code="format.json")
    if kind is dict:
        if not all(isinstance(key, str) for key in value):
            raise FormatError("not expressible as canonical JSON: a key is no text", code="format.json")
        value = value.values()
    for item in value:
        _require_plain(item, depth + 1)


def decode(data: bytes, what: str, limit: int) -> dict[str, Any]:
    """The object of which ``data`` is the canonical form; at most ``limit`` bytes. Raises FormatError, Oversized."""
    document = parse(data, what, limit)
    require_same(encode(document), data, what)
    return document


def require_same(encoded: bytes, data: bytes, what: str) -> None:
    """That ``data`` is what its own reading was encoded to. Raises FormatError (``format.canonical``)."""
    if encoded != data:
        raise FormatError(
            f"{what} is not in canonical form (RFC 8785)",
            record=what,
            hint="take it byte for byte as it was issued: do not reformat it",
            code="format.canonical",
        )


def parse(data: bytes, what: str, limit: int, *, floats: bool = False) -> dict[str, Any]:
    """The object in ``data``, in any layout; duplicate keys, NaN and, without ``floats``, floats are refused.

    ``floats`` is for documents that others define. Raises as decode.
    """
    if len(data) > limit:
        raise Oversized(f"{what} has more than {limit} bytes", record=what, expected=f"at most {limit} bytes")
    try:
        document = _READERS[floats].decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON: {error}", record=what, code="format.json") from error
    if not isinstance(document, dict):
        raise FormatError(f"{what} is not a JSON object", record=what, code="format.json")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key occurs twice")
    return document


def _no_float(text: str) -> Never:
    raise ValueError(f"{text[:20]}: integers only")


_READERS = {
    floats: json.JSONDecoder(
        object_pairs_hook=_unique, parse_float=float if floats else _no_float, parse_constant=_no_float
    )
    for floats in (False, True)
}
"""Made once, and keeping nothing between two documents; by whether floats are taken."""


class Reader:
    """Typed access to one JSON object whose keys must be exactly ``keys``. Every method raises FormatError."""

    def __init__(self, document: Any, what: str, keys: frozenset[str]) -> None:
        if not isinstance(document, dict):
            raise FormatError(f"{what} is not a JSON object", record=what)
        if document.keys() != keys:
            if missing := sorted(keys - document.keys()):
                raise FormatError(f"{what}: {', '.join(missing)} missing", record=what)
            unknown = sorted(document.keys() - keys)
            raise FormatError(f"{what}: unknown field {shown(unknown[0])}", record=what)
        self._document: dict[str, Any] = document
        self.what = what

    def _fail(self, key: str, expected: str) -> FormatError:
        return FormatError(f"{self.what}: {key} is not {expected}", record=self.what, expected=expected)

    def text(self, key: str, limit: int, pattern: re.Pattern[str] | None = None, expected: str = "") -> str:
        """A string of at most ``limit`` UTF-8 bytes without control characters, fully matching ``pattern``."""
        value = self._document[key]
        if not isinstance(value, str) or not is_text(value, limit) or (pattern and not pattern.fullmatch(value)):
            raise self._fail(key, expected or f"text of at most {limit} bytes without control characters")
        return value

    def integer(self, key: str, low: int = 0, high: int = MAX_INTEGER) -> int:
        """An integer in ``low..high``."""
        value = self._document[key]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._fail(key, f"an integer from {low} to {high}")
        return value

    def hexadecimal(self, key: str, low: int, high: int | None = None) -> bytes:
        """``low`` to ``high`` bytes (exactly ``low`` without a ``high``) as lower-case hex."""
        high = low if high is None else high
        return self._hexadecimal(key, self._document[key], low, high)

    def hexadecimal_list(self, key: str, count: int, size: int) -> tuple[bytes, ...]:
        """At most ``count`` values of ``size`` bytes each, as lower-case hex."""
        return tuple(self._hexadecimal(key, item, size, size) for item in self._list(key, count))

    def _hexadecimal(self, key: str, value: Any, low: int, high: int) -> bytes:
        if (
            isinstance(value, str)
            and low * 2 <= len(value) <= high * 2
            and not len(value) % 2
            and _HEX.fullmatch(value)
        ):
            return bytes.fromhex(value)
        span = f"{low} to {high}" if high > low else f"{low}"
        raise self._fail(key, f"{span} bytes as lower-case hex")

    def _list(self, key: str, count: int) -> list[Any]:
        value = self._document[key]
        if not isinstance(value, list) or len(value) > count:
            raise self._fail(key, f"a list of at most {count}")
        return value

    def base64(self, key: str, low: int, high: int) -> bytes:
        """``low`` to ``high`` bytes as canonical base64."""
        return self._base64(key, self._document[key], low, high)

    def base64_list(self, key: str, count: int, high: int) -> tuple[bytes, ...]:
        """At most ``count`` values of 1 to ``high`` bytes, each as canonical base64."""
        return tuple(self._base64(key, item, 1, high) for item in self._list(key, count))

    def _base64(self, key: str, value: Any, low: int, high: int) -> bytes:
        expected = f"{low} to {high} bytes as canonical base64"
        if not isinstance(value, str) or len(value) > high * 2 + 8:
            raise self._fail(key, expected)
        try:
            text = value.encode("ascii")
            data = binascii.a2b_base64(text, strict_mode=True)
        except ValueError as error:
            raise self._fail(key, expected) from error
        # The last character may carry bits that no byte has: one value, one text.
        whole = len(data) // 3
        if not low <= len(data) <= high or binascii.b2a_base64(data[whole * 3 :], newline=False) != text[whole * 4 :]:
            raise self._fail(key, expected)
        return data

    def time(self, key: str) -> datetime:
        """``YYYY-MM-DDThh:mm:ssZ``."""
        value = self._document[key]
        try:
            if isinstance(value, str) and _TIME.fullmatch(value):
                return datetime.fromisoformat(value)
        except ValueError as error:
            raise self._fail(key, "a date") from error
        raise self._fail(key, "a time as YYYY-MM-DDThh:mm:ssZ")

    def item(self, key: str) -> Any:
        """The value as it is, for a reader of its own."""
        return self._document[key]


def is_text(value: str, limit: int) -> bool:
    """Whether ``value`` has at most ``limit`` UTF-8 bytes and nothing that could repaint a terminal."""
    return not _UNPRINTABLE.search(value) and len(value.encode()) <= limit


def text(value: str) -> bytes:
    """The canonical bytes of a string for which ``is_text`` holds: of what it may hold, two characters need an escape.

    RFC 8785, section 3.2.2.2. The same as ``encode``, in a fraction of its time: signers do little else.
    """
    return b'"%s"' % value.replace("\\", "\\\\").replace('"', '\\"').encode()


def printable(text: str) -> str:
    """``text`` with escapes for what could repaint a terminal: messages may quote names out of hostile certificates."""
    return _UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], text)


def shown(value: str, limit: int = 60) -> str:
    """Foreign text, quoted and cut for a message."""
    return ascii(value if len(value) <= limit else value[:limit] + "...")


def b64(data: bytes) -> str:
    """Standard base64 with padding."""
    return b64encode(data).decode("ascii")


def rfc3339(moment: datetime) -> str:
    """``YYYY-MM-DDThh:mm:ssZ``; ``moment`` is aware. Raises FormatError for a naive one."""
    if moment.tzinfo is None:
        raise FormatError("a time without a zone", record="time")
    # Not strftime: with some C libraries it writes the year 211 without its zero.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
