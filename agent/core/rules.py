"""Rules of a policy over one value: what each rule type accepts. Everything that can't be compared fails (closed).

Bytes are hex text in every rule type, in either case, with an optional ``0x``; a word is an integer or "0x..." text;
all else must be of the same JSON type. A list in which one entry can't be compared with the value fails as a whole,
deny_list included: a typing error must never let a denied value in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.core.appraisal import Octets, Scalar, Word
from agent.core.canonical import shown
from agent.core.errors import FormatError

_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


class _Incomparable(Exception):
    pass


def _like(value: Scalar, expected: Any) -> Scalar:
    """``expected`` as the kind that ``value`` is."""
    if isinstance(value, Octets):
        return Octets(_octets(expected, len(value.value)))
    if isinstance(value, Word):
        return Word(_word(expected))
    if type(expected) is not type(value):
        raise _Incomparable(f"{shown(str(expected))} is no {type(value).__name__}")
    return type(value)(expected)


def _octets(expected: Any, size: int) -> bytes:
    data = hex_bytes(expected)
    if data is None or len(data) != size:
        raise _Incomparable(f"{shown(str(expected))} is not {size} bytes as hex")
    return data


def hex_bytes(text: Any) -> bytes | None:
    """Bytes from hex in either case with an optional ``0x``; None for anything else."""
    if not isinstance(text, str):
        return None
    digits = text.removeprefix("0x")
    return bytes.fromhex(digits) if len(digits) % 2 == 0 and _HEX_DIGITS.issuperset(digits) else None


def _word(expected: Any) -> int:
    if isinstance(expected, int) and not isinstance(expected, bool):
        return expected
    digits = expected[2:] if isinstance(expected, str) and expected.startswith("0x") else ""
    if not digits or not _HEX_DIGITS.issuperset(digits):
        raise _Incomparable(f"{shown(str(expected))} is neither an integer nor 0x...")
    return int(digits, 16)


def _difference(value: Scalar, expected: Any) -> int:
    if isinstance(value, Word):
        return value.value - _word(expected)
    if type(value) is int and type(expected) is int:
        return value - expected
    raise _Incomparable(f"{text(value)} and {shown(str(expected))} are not both numbers")


def _list(value: Scalar, expected: Any) -> list[Scalar]:
    return [_like(value, item) for item in expected]


def _boolean(value: Scalar, expected: Any) -> bool:
    return isinstance(value, bool) and isinstance(expected, bool) and value is expected


RULES: dict[str, Callable[[Scalar, Any], bool]] = {
    "exact_match": lambda value, expected: value == _like(value, expected),
    "min_value": lambda value, expected: _difference(value, expected) >= 0,
    "max_value": lambda value, expected: _difference(value, expected) <= 0,
    "allow_list": lambda value, expected: value in _list(value, expected),
    "deny_list": lambda value, expected: value not in _list(value, expected),
    "boolean": _boolean,
}
"""The rule types, by the names of the wire."""


def holds(rule: str, value: Scalar, expected: Any) -> tuple[bool, str]:
    """Whether the rule holds, and what to tell. Never raises for a value out of a policy."""
    try:
        ok = RULES[rule](value, expected)
    except _Incomparable as error:
        return False, f"not comparable: {error}"
    return ok, "" if ok else f"{text(value)} does not satisfy {shown(str(expected), 200)}"


def check_shape(rule: str, expected: Any, where: str) -> None:
    """Raises FormatError unless ``expected`` can be a ``rule``'s operand."""
    if rule in ("allow_list", "deny_list"):
        fits = isinstance(expected, list) and bool(expected) and all(isinstance(e, int | str) for e in expected)
        form = "a list with at least one value"
    elif rule == "boolean":
        fits, form = isinstance(expected, bool), "true or false"
    elif rule == "exact_match":
        fits, form = isinstance(expected, int | str), "a value"
    else:
        fits = isinstance(expected, int | str) and not isinstance(expected, bool)
        form = "a number"
    if not fits:
        raise bad(f"{where}: {rule} wants {form}")


def bad(message: str) -> FormatError:
    """The error for a policy that is refused when it is read."""
    return FormatError(f"policy: {message}", record="policy", code="format.policy")


def text(value: Scalar) -> str:
    """A value as it is shown."""
    if isinstance(value, Octets):
        return value.value.hex()
    return f"0x{value.value:016x}" if isinstance(value, Word) else str(value)
