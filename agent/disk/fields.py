"""Values of LUKS2 metadata, each within its limits: the small readers that the allow-list is written with. Pure."""

from __future__ import annotations

import re
from typing import Any

from agent.core.canonical import Reader, shown
from agent.disk.binary import refused

CIPHER = "aes-xts-plain64"
HASHES = ("sha256", "sha512")
KEY_SIZES = (32, 64)
"""Bytes: AES-128-XTS and AES-256-XTS."""
MAX_SLOTS = 32
"""Keyslots, tokens or digests at the most (specification, section 3)."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


def given(value: Any, name: str) -> Any:
    """A field of what may not even be an object; None where there is none."""
    return value.get(name) if isinstance(value, dict) else None


def present(value: Any, *names: str) -> set[str]:
    """Those of ``names`` that are fields of ``value``."""
    return {name for name in names if isinstance(value, dict) and name in value}


def slot_number(value: Any, where: str) -> int:
    """0 to 31, as a string. Raises HeaderRefused, like all below."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value) or int(value) >= MAX_SLOTS:
        said = shown(value) if isinstance(value, str) else f"a JSON {type(value).__name__}"
        raise refused(where, f"{said} is not a number from 0 to {MAX_SLOTS - 1}, in quotes", "metadata")
    return int(value)


def numbers(reader: Reader, key: str) -> tuple[int, ...]:
    """A list of different numbers, each as a string."""
    value = reader.item(key)
    if not isinstance(value, list):
        raise refused(reader.what, f"{key} is not a list", "metadata")
    found = tuple(slot_number(item, f"{reader.what}.{key}") for item in value)
    if len(set(found)) != len(found):
        raise refused(reader.what, f"{key} names a number twice", "metadata")
    return found


def byte_count(reader: Reader, key: str) -> int:
    """A count of bytes, as a string."""
    return int(reader.text(key, 19, _NUMBER, "a decimal number in quotes"))


def one_of(reader: Reader, key: str, allowed: tuple[str, ...]) -> str:
    """A word that is allowed; a null cipher is refused under a code of its own."""
    value = reader.text(key, 64)
    if value not in allowed:
        code = "null-cipher" if "null" in value else "not-allowed"
        raise refused(reader.what, f"{key} {shown(value)} is not allowed (allowed: {', '.join(allowed)})", code)
    return value


def xts_key_size(reader: Reader) -> int:
    """The field ``key_size``, in bytes."""
    value = reader.integer("key_size")
    if value not in KEY_SIZES:
        raise refused(reader.what, f"a key_size of {value} bytes is not allowed (allowed: 32, 64)", "not-allowed")
    return value


def cost(reader: Reader, key: str, low: int, high: int) -> int:
    """A parameter of a key derivation."""
    value = reader.integer(key)
    if not low <= value <= high:
        raise refused(reader.what, f"{key} of {value} is outside {low} to {high}", "cost")
    return value
