"""One keyslot of a LUKS2 header against the allow-list: cipher, cost of the key derivation, place. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.core.canonical import Reader
from agent.disk.binary import refused
from agent.disk.fields import CIPHER, HASHES, byte_count, cost, given, one_of, present, xts_key_size

AF_STRIPES = 4000
SECTOR = 4096
"""Keyslot areas begin and end at multiples of this many bytes."""
MAX_MEMORY_KIB = 1 << 20
"""Of argon2: 1 GiB, cryptsetup's own default ceiling (--pbkdf-memory). More could stop a small machine's boot."""
MAX_TIME = 256
"""Passes of argon2."""
MAX_WORK_KIB = 1 << 25
"""Memory times passes of argon2: half a minute or so on a slow core."""
MAX_CPUS = 4
"""Lanes of argon2, cryptsetup's own ceiling."""
MAX_ITERATIONS = 50_000_000
"""Of pbkdf2 in a keyslot; cryptsetup's default of two seconds makes 2 to 10 million."""


@dataclass(frozen=True, slots=True)
class Keyslot:
    """A way to the volume key. ``area`` is the byte range of its key material; ``document`` the JSON as it stands."""

    number: int
    key_size: int
    area: range
    document: Mapping[str, Any]


def parse(number: int, value: Any) -> Keyslot:
    """Keyslot ``number`` from its JSON. Raises HeaderRefused, FormatError."""
    where = f"keyslot {number}"
    if given(value, "type") == "reencrypt":
        raise refused(where, "the volume is under re-encryption", "reencrypt")
    optional = present(value, "priority")
    reader = Reader(value, where, frozenset({"type", "key_size", "area", "kdf", "af"} | optional))
    one_of(reader, "type", ("luks2",))
    if optional:
        reader.integer("priority", 0, 2)
    key_size = xts_key_size(reader)
    _antiforensic(reader.item("af"), f"{where} af")
    _kdf(reader.item("kdf"), f"{where} kdf")
    return Keyslot(number, key_size, _area(reader.item("area"), f"{where} area", key_size), value)


def _antiforensic(value: Any, where: str) -> None:
    reader = Reader(value, where, frozenset({"type", "stripes", "hash"}))
    one_of(reader, "type", ("luks1",))
    reader.integer("stripes", AF_STRIPES, AF_STRIPES)
    one_of(reader, "hash", HASHES)


def _area(value: Any, where: str, key_size: int) -> range:
    reader = Reader(value, where, frozenset({"type", "offset", "size", "encryption", "key_size"}))
    one_of(reader, "type", ("raw",))
    one_of(reader, "encryption", (CIPHER,))
    xts_key_size(reader)
    offset, size = byte_count(reader, "offset"), byte_count(reader, "size")
    if offset % SECTOR or size % SECTOR or not key_size * AF_STRIPES <= size <= key_size * AF_STRIPES + SECTOR:
        raise refused(where, f"{size} bytes at {offset} do not fit a key of {key_size} bytes", "bounds")
    return range(offset, offset + size)


def check_areas(keyslots: Mapping[int, Keyslot], bounds: range) -> None:
    """Areas lie inside ``bounds`` and apart from each other. Raises HeaderRefused."""
    at = bounds.start
    for slot in sorted(keyslots.values(), key=lambda slot: slot.area.start):
        if slot.area.start < bounds.start or slot.area.stop > bounds.stop:
            raise refused(f"keyslot {slot.number} area", "lies outside the keyslot area", "bounds")
        if slot.area.start < at:
            raise refused(f"keyslot {slot.number} area", "overlaps another one", "bounds")
        at = slot.area.stop


def _kdf(value: Any, where: str) -> None:
    kind = given(value, "type")
    if kind == "pbkdf2":
        reader = Reader(value, where, frozenset({"type", "hash", "iterations", "salt"}))
        one_of(reader, "hash", HASHES)
        cost(reader, "iterations", 1000, MAX_ITERATIONS)
    else:
        reader = Reader(value, where, frozenset({"type", "time", "memory", "cpus", "salt"}))
        one_of(reader, "type", ("argon2id", "argon2i", "pbkdf2"))
        passes, memory = cost(reader, "time", 1, MAX_TIME), cost(reader, "memory", 8, MAX_MEMORY_KIB)
        cost(reader, "cpus", 1, MAX_CPUS)
        if passes * memory > MAX_WORK_KIB:
            raise refused(where, f"{passes} passes over {memory} KiB cost too much", "cost")
    reader.base64("salt", 8, 64)
