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
from agent.core.canonical import Reader
from agent.core.errors import FormatError, HeaderRefused
from agent.disk import keyslot
from agent.disk.binary import BINARY_SIZE, refused
from agent.disk.fields import CIPHER, HASHES, byte_count, cost, given, numbers, one_of, present, slot_number
from agent.disk.keyslot import SECTOR, Keyslot

MAX_DIGEST_ITERATIONS = 10_000_000
"""cryptsetup spends an eighth of a second: 100,000 to 2 million."""
MAX_TEXT = 1 << 20
"""Bytes of JSON. LUKS2 allows areas of 4 MiB, which a host could fill such that parsing takes 150 MiB in early boot."""
MAX_DEPTH = 32
"""Of nested lists and objects."""

# Possessive, and the end of the text ends a string: nothing here may take quadratic time.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_TOP = frozenset({"keyslots", "tokens", "segments", "digests", "config"})


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
        if len(text) > MAX_TEXT:
            raise refused("metadata", f"has {len(text)} bytes, {MAX_TEXT} are allowed", "metadata")
        _nesting(text)
        document = canonical.parse(text, "metadata", size)
        top = Reader(document, "metadata", _TOP)
        keyslots_end = _config(top.item("config"), size)
        keyslots = {number: keyslot.parse(number, item) for number, item in _numbered(top, "keyslots")}
        keyslot.check_areas(keyslots, range(2 * size, keyslots_end))
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
        yield slot_number(key, name), item


def _config(value: Any, size: int) -> int:
    """Returns where the keyslot areas end."""
    if given(value, "flags"):
        raise refused("config", "persistent flags are set", "flags")
    if given(value, "requirements"):
        raise refused("config", "requirements are set: re-encryption, or a feature of a newer cryptsetup", "reencrypt")
    reader = Reader(
        value, "config", frozenset({"json_size", "keyslots_size"} | present(value, "flags", "requirements"))
    )
    if byte_count(reader, "json_size") != size - BINARY_SIZE:
        raise refused("config", "json_size is not that of the header", "bounds")
    keyslots_size = byte_count(reader, "keyslots_size")
    if keyslots_size % SECTOR or keyslots_size > 1 << 27:
        raise refused("config", "keyslots_size is not a multiple of 4096 up to 128 MiB", "bounds")
    return 2 * size + keyslots_size


def _token(number: int, value: Any, keyslots: Mapping[int, Keyslot]) -> Mapping[str, Any]:
    where = f"token {number}"
    reader = Reader(value, where, frozenset(value) | {"type", "keyslots"} if isinstance(value, dict) else frozenset())
    reader.text("type", 256)
    if not keyslots.keys() >= set(numbers(reader, "keyslots")):
        raise refused(where, "names a keyslot that is not there", "metadata")
    token: Mapping[str, Any] = value
    return token


def _segments(top: Reader, keyslots_end: int) -> tuple[int, int | None]:
    """Returns the data's offset and size in bytes; a size of None means up to the end."""
    table = top.item("segments")
    if not isinstance(table, dict) or set(table) != {"0"}:
        raise refused("segments", "there is not exactly one, with number 0: re-encryption?", "reencrypt")
    if given(table["0"], "type") == "crypt" and present(table["0"], "integrity"):
        raise refused("segment 0", "dm-integrity is not supported yet", "integrity")
    if present(table["0"], "flags"):
        raise refused("segment 0", "flags are set: re-encryption", "reencrypt")
    names = {"type", "offset", "size", "iv_tweak", "encryption", "sector_size"}
    reader = Reader(table["0"], "segment 0", frozenset(names))
    one_of(reader, "type", ("crypt",))
    one_of(reader, "encryption", (CIPHER,))
    one_of(reader, "iv_tweak", ("0",))
    sector = reader.integer("sector_size", 512, 4096)
    offset = byte_count(reader, "offset")
    size = None if reader.item("size") == "dynamic" else byte_count(reader, "size")
    if sector not in (512, 1024, 2048, 4096) or offset % 512 or offset < keyslots_end or size == 0:
        raise refused("segment 0", f"sectors of {sector} bytes from byte {offset} are not possible", "bounds")
    return offset, size


def _digest(number: int, value: Any, keyslots: Mapping[int, Keyslot]) -> Digest:
    where = f"digest {number}"
    names = {"type", "keyslots", "segments", "hash", "iterations", "salt", "digest"}
    reader = Reader(value, where, frozenset(names))
    one_of(reader, "type", ("pbkdf2",))
    length = 32 if one_of(reader, "hash", HASHES) == "sha256" else 64
    cost(reader, "iterations", 1000, MAX_DIGEST_ITERATIONS)
    reader.base64("salt", 8, 64)
    reader.base64("digest", length, length)
    slots, segments = numbers(reader, "keyslots"), numbers(reader, "segments")
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
