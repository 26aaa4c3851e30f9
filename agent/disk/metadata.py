"""The JSON part of a LUKS2 header against an allow-list: what is not known to be harmless is refused (I5).

Pure. Specification: LUKS2 On-Disk Format 1.1.x, section 3. Unknown fields, duplicate keys and floats are refused;
numbers are in range; key derivation costs are bounded; ciphers are AES-XTS, never null; nothing is under
re-encryption, and no flag or requirement is set. Foreign tokens are the one open place of the format: their type
and keyslots are read, the rest is theirs, and no copy that cryptsetup opens from contains them (image.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent.core import canonical
from agent.core.canonical import Reader, shown
from agent.core.errors import FormatError, HeaderRefused
from agent.disk.binary import BINARY_SIZE, refused

AF_STRIPES = 4000
SECTOR = 4096
"""Keyslot areas begin and end at multiples of this many bytes."""
CIPHER = "aes-xts-plain64"
KEY_SIZES = (32, 64)
"""Bytes: AES-128-XTS and AES-256-XTS."""
HASHES = ("sha256", "sha512")
MAX_SLOTS = 32
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
MAX_DIGEST_ITERATIONS = 10_000_000

MAX_DEPTH = 32

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_TOP = frozenset({"keyslots", "tokens", "segments", "digests", "config"})


@dataclass(frozen=True, slots=True)
class Keyslot:
    """A way to the volume key. ``area`` is the byte range of its key material; ``document`` the JSON as it stands."""

    number: int
    key_size: int
    area: range
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Digest:
    """Which key a keyslot holds. ``of_volume`` is True for the one digest that the data segment hangs on."""

    number: int
    keyslots: tuple[int, ...]
    of_volume: bool
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Metadata:
    """A header's JSON, read whole. ``data`` is the data's byte range; its end is None for "up to the device's end"."""

    document: Mapping[str, Any]
    keyslots: Mapping[int, Keyslot]
    tokens: Mapping[int, Mapping[str, Any]]
    digests: tuple[Digest, ...]
    data_offset: int
    data_size: int | None
    keyslots_end: int

    @property
    def volume_digest(self) -> Digest:
        return next(digest for digest in self.digests if digest.of_volume)


def parse(text: bytes, size: int) -> Metadata:
    """The metadata in ``text``; ``size`` is that of one header copy in bytes. Raises HeaderRefused."""
    with _refusals():
        _nesting(text)
        document = canonical.parse(text, "metadata", size)
        top = Reader(document, "metadata", _TOP)
        keyslots_end = _config(top.item("config"), size)
        keyslots = {number: _keyslot(number, item) for number, item in _numbered(top, "keyslots")}
        _areas(keyslots, range(2 * size, keyslots_end))
        tokens = {number: _token(number, item, keyslots) for number, item in _numbered(top, "tokens")}
        offset, length = _segments(top, keyslots_end)
        digests = tuple(_digest(number, item, keyslots) for number, item in _numbered(top, "digests"))
        _assigned(digests, keyslots)
        return Metadata(document, keyslots, tokens, digests, offset, length, keyslots_end)


def _nesting(text: bytes) -> None:
    """Everything after this may recurse without fear."""
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise refused("metadata", f"is nested more than {MAX_DEPTH} deep", "metadata")


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except FormatError as error:
        raise HeaderRefused(f"LUKS2 header: {error.message}", code="disk.header.metadata") from error


def _numbered(top: Reader, name: str) -> Iterator[tuple[int, Any]]:
    table = top.item(name)
    if not isinstance(table, dict):
        raise refused(name, "not a JSON object", "metadata")
    for key, item in table.items():
        yield _slot_number(key, name), item


def _slot_number(value: Any, where: str) -> int:
    if not isinstance(value, str) or not _NUMBER.fullmatch(value) or int(value) >= MAX_SLOTS:
        said = shown(value) if isinstance(value, str) else f"a JSON {type(value).__name__}"
        raise refused(where, f"{said} is not a number from 0 to {MAX_SLOTS - 1}, in quotes", "metadata")
    return int(value)


def _numbers(reader: Reader, key: str) -> tuple[int, ...]:
    """A list of different numbers, each as a string."""
    value = reader.item(key)
    if not isinstance(value, list):
        raise refused(reader.what, f"{key} is not a list", "metadata")
    numbers = tuple(_slot_number(item, f"{reader.what}.{key}") for item in value)
    if len(set(numbers)) != len(numbers):
        raise refused(reader.what, f"{key} names a number twice", "metadata")
    return numbers


def _bytes(reader: Reader, key: str) -> int:
    """A count of bytes, as a string."""
    return int(reader.text(key, 19, _NUMBER, "a decimal number in quotes"))


def _one_of(reader: Reader, key: str, allowed: tuple[str, ...]) -> str:
    value = reader.text(key, 64)
    if value not in allowed:
        code = "null-cipher" if "null" in value else "not-allowed"
        raise refused(reader.what, f"{key} {shown(value)} is not allowed (allowed: {', '.join(allowed)})", code)
    return value


def _key_size(reader: Reader) -> int:
    value = reader.integer("key_size")
    if value not in KEY_SIZES:
        raise refused(reader.what, f"a key_size of {value} bytes is not allowed (allowed: 32, 64)", "not-allowed")
    return value


def _config(value: Any, size: int) -> int:
    """Returns where the keyslot areas end."""
    given = set(value) if isinstance(value, dict) else set()
    for name in sorted(given & {"flags", "requirements"}):
        if value[name]:
            raise refused(
                "config",
                f"{name} are set: {shown(str(value[name]))}",
                "reencrypt" if name == "requirements" else "flags",
            )
    reader = Reader(value, "config", frozenset({"json_size", "keyslots_size"} | (given & {"flags", "requirements"})))
    if _bytes(reader, "json_size") != size - BINARY_SIZE:
        raise refused("config", "json_size is not that of the header", "bounds")
    keyslots_size = _bytes(reader, "keyslots_size")
    if keyslots_size % SECTOR or keyslots_size > 1 << 27:
        raise refused("config", "keyslots_size is not a multiple of 4096 up to 128 MiB", "bounds")
    return 2 * size + keyslots_size


def _keyslot(number: int, value: Any) -> Keyslot:
    where = f"keyslot {number}"
    if isinstance(value, dict) and value.get("type") == "reencrypt":
        raise refused(where, "the volume is under re-encryption", "reencrypt")
    optional = {"priority"} & set(value) if isinstance(value, dict) else set()
    reader = Reader(value, where, frozenset({"type", "key_size", "area", "kdf", "af"} | optional))
    _one_of(reader, "type", ("luks2",))
    if optional:
        reader.integer("priority", 0, 2)
    key_size = _key_size(reader)
    _antiforensic(reader.item("af"), f"{where} af")
    _kdf(reader.item("kdf"), f"{where} kdf")
    return Keyslot(number, key_size, _area(reader.item("area"), f"{where} area", key_size), value)


def _antiforensic(value: Any, where: str) -> None:
    reader = Reader(value, where, frozenset({"type", "stripes", "hash"}))
    _one_of(reader, "type", ("luks1",))
    reader.integer("stripes", AF_STRIPES, AF_STRIPES)
    _one_of(reader, "hash", HASHES)


def _area(value: Any, where: str, key_size: int) -> range:
    reader = Reader(value, where, frozenset({"type", "offset", "size", "encryption", "key_size"}))
    _one_of(reader, "type", ("raw",))
    _one_of(reader, "encryption", (CIPHER,))
    _key_size(reader)
    offset, size = _bytes(reader, "offset"), _bytes(reader, "size")
    if offset % SECTOR or size % SECTOR or not key_size * AF_STRIPES <= size <= key_size * AF_STRIPES + SECTOR:
        raise refused(where, f"{size} bytes at {offset} do not fit a key of {key_size} bytes", "bounds")
    return range(offset, offset + size)


def _areas(keyslots: Mapping[int, Keyslot], bounds: range) -> None:
    at = bounds.start
    for slot in sorted(keyslots.values(), key=lambda slot: slot.area.start):
        if slot.area.start < bounds.start or slot.area.stop > bounds.stop:
            raise refused(f"keyslot {slot.number} area", "lies outside the keyslot area", "bounds")
        if slot.area.start < at:
            raise refused(f"keyslot {slot.number} area", "overlaps another one", "bounds")
        at = slot.area.stop


def _kdf(value: Any, where: str) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "pbkdf2":
        reader = Reader(value, where, frozenset({"type", "hash", "iterations", "salt"}))
        _one_of(reader, "hash", HASHES)
        _cost(reader, "iterations", 1000, MAX_ITERATIONS)
    else:
        reader = Reader(value, where, frozenset({"type", "time", "memory", "cpus", "salt"}))
        _one_of(reader, "type", ("argon2id", "argon2i", "pbkdf2"))
        passes, memory = _cost(reader, "time", 1, MAX_TIME), _cost(reader, "memory", 8, MAX_MEMORY_KIB)
        _cost(reader, "cpus", 1, MAX_CPUS)
        if passes * memory > MAX_WORK_KIB:
            raise refused(where, f"{passes} passes over {memory} KiB cost too much", "cost")
    reader.base64("salt", 8, 64)


def _cost(reader: Reader, key: str, low: int, high: int) -> int:
    value = reader.integer(key)
    if not low <= value <= high:
        raise refused(reader.what, f"{key} of {value} is outside {low} to {high}", "cost")
    return value


def _token(number: int, value: Any, keyslots: Mapping[int, Keyslot]) -> Mapping[str, Any]:
    where = f"token {number}"
    reader = Reader(value, where, frozenset(value) | {"type", "keyslots"} if isinstance(value, dict) else frozenset())
    reader.text("type", 256)
    if not keyslots.keys() >= set(_numbers(reader, "keyslots")):
        raise refused(where, "names a keyslot that is not there", "metadata")
    token: Mapping[str, Any] = value
    return token


def _segments(top: Reader, keyslots_end: int) -> tuple[int, int | None]:
    """Returns the data's offset and size in bytes; a size of None means up to the end."""
    table = top.item("segments")
    if not isinstance(table, dict) or set(table) != {"0"}:
        raise refused("segments", "there is not exactly one, with number 0: re-encryption?", "reencrypt")
    kind = table["0"].get("type") if isinstance(table["0"], dict) else None
    if kind == "crypt" and "integrity" in table["0"]:
        raise refused("segment 0", "dm-integrity is not supported yet", "integrity")
    names = {"type", "offset", "size", "iv_tweak", "encryption", "sector_size"}
    if isinstance(table["0"], dict) and "flags" in table["0"]:
        raise refused("segment 0", "flags are set: re-encryption", "reencrypt")
    reader = Reader(table["0"], "segment 0", frozenset(names))
    _one_of(reader, "type", ("crypt",))
    _one_of(reader, "encryption", (CIPHER,))
    _one_of(reader, "iv_tweak", ("0",))
    sector = reader.integer("sector_size", 512, 4096)
    offset = _bytes(reader, "offset")
    size = None if reader.item("size") == "dynamic" else _bytes(reader, "size")
    if sector not in (512, 1024, 2048, 4096) or offset % 512 or offset < keyslots_end or size == 0:
        raise refused("segment 0", f"sectors of {sector} bytes from byte {offset} are not possible", "bounds")
    return offset, size


def _digest(number: int, value: Any, keyslots: Mapping[int, Keyslot]) -> Digest:
    where = f"digest {number}"
    names = {"type", "keyslots", "segments", "hash", "iterations", "salt", "digest"}
    reader = Reader(value, where, frozenset(names))
    _one_of(reader, "type", ("pbkdf2",))
    length = 32 if _one_of(reader, "hash", HASHES) == "sha256" else 64
    _cost(reader, "iterations", 1000, MAX_DIGEST_ITERATIONS)
    reader.base64("salt", 8, 64)
    reader.base64("digest", length, length)
    slots, segments = _numbers(reader, "keyslots"), _numbers(reader, "segments")
    if not keyslots.keys() >= set(slots):
        raise refused(where, "names a keyslot that is not there", "metadata")
    if segments not in ((), (0,)):
        raise refused(where, "names a segment that is not there", "metadata")
    return Digest(number, slots, segments == (0,), value)


def _assigned(digests: tuple[Digest, ...], keyslots: Mapping[int, Keyslot]) -> None:
    if sum(digest.of_volume for digest in digests) != 1:
        raise refused("digests", "the data segment does not hang on exactly one of them", "reencrypt")
    assigned = [slot for digest in digests for slot in digest.keyslots]
    if sorted(assigned) != sorted(keyslots):
        raise refused("digests", "a keyslot does not belong to exactly one of them", "metadata")
