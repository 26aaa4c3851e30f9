"""The fixed part of a LUKS2 header: 4096 bytes and a JSON area, twice on disk, both under one checksum.

Pure, bytes to values and back. Layout: LUKS2 On-Disk Format Specification 1.1.x, section 2 (struct luks2_hdr_disk);
integers are big endian. Only what cryptsetup itself writes is taken: version 2, sha256, zero padding, a secondary
copy at the end of the primary one. Everything else is HeaderRefused, which names the copy and the field.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from typing import Literal

from agent.core.errors import HeaderRefused

BINARY_SIZE = 4096
"""Bytes before the JSON area."""
SIZES = tuple(0x4000 << step for step in range(9))
"""Allowed sizes of one copy, JSON area included: 16 KiB to 4 MiB (specification, table 1)."""
MAX_SEQUENCE = 2**63
"""Above this, a sequence number was not reached by counting."""

Which = Literal["primary", "secondary"]

_LAYOUT = struct.Struct(">6sHQQ48s32s64s40s48sQ184s64s")
_CHECKSUM = slice(448, 512)
_MAGIC: dict[Which, bytes] = {"primary": b"LUKS\xba\xbe", "secondary": b"SKUL\xba\xbe"}
_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Binary:
    """What the fixed part says. ``size`` is that of one copy; label, subsystem and salt are kept as they are."""

    size: int
    sequence: int
    label: bytes
    salt: bytes
    uuid: str
    subsystem: bytes


def size_of(start: bytes, which: Which) -> int:
    """The size of the copy that begins with ``start`` (512 bytes or more). Raises HeaderRefused."""
    return _unpack(start, which).size


def parse(data: bytes, which: Which) -> tuple[Binary, bytes]:
    """One whole copy: its values and its JSON text, checksum verified. Raises HeaderRefused."""
    binary = _unpack(data, which)
    if len(data) != binary.size:
        raise refused(which, f"{binary.size} bytes are required, {len(data)} are there", "truncated")
    if checksum(data) != data[_CHECKSUM]:
        raise refused(which, "the checksum does not match", "checksum")
    if any(data[_LAYOUT.size : BINARY_SIZE]):
        raise refused(which, "padding is not zero", "padding")
    text, _, rest = data[BINARY_SIZE:].partition(b"\0")
    if len(text) == binary.size - BINARY_SIZE or any(rest):
        raise refused(which, "the JSON area does not end in zero bytes", "padding")
    return binary, text


def build(binary: Binary, text: bytes, which: Which) -> bytes:
    """One whole copy with its checksum, such that ``parse`` gives back the same. Raises HeaderRefused if too long."""
    if len(text) >= binary.size - BINARY_SIZE:
        raise refused(which, "the metadata does not fit its area", "size")
    offset = 0 if which == "primary" else binary.size
    fixed = _LAYOUT.pack(
        _MAGIC[which],
        2,
        binary.size,
        binary.sequence,
        binary.label,
        b"sha256",
        binary.salt,
        binary.uuid.encode("ascii"),
        binary.subsystem,
        offset,
        b"",
        b"",
    )
    data = bytearray(binary.size)
    data[: len(fixed)] = fixed
    data[BINARY_SIZE : BINARY_SIZE + len(text)] = text
    data[_CHECKSUM] = checksum(bytes(data))
    return bytes(data)


def checksum(data: bytes) -> bytes:
    """SHA-256 over one copy with its checksum field taken as zero, padded to the field's 64 bytes."""
    digest = hashlib.sha256(data[: _CHECKSUM.start])
    digest.update(bytes(_CHECKSUM.stop - _CHECKSUM.start))
    digest.update(data[_CHECKSUM.stop :])
    return digest.digest().ljust(64, b"\0")


def refused(where: str, what: str, code: str) -> HeaderRefused:
    """The error for ``what`` found at ``where``."""
    return HeaderRefused(f"LUKS2 header, {where}: {what}", code=f"disk.header.{code}")


def _unpack(data: bytes, which: Which) -> Binary:
    if len(data) < _LAYOUT.size:
        raise refused(which, f"truncated after {len(data)} bytes", "truncated")
    magic, version, size, sequence, label, algorithm, salt, uuid, subsystem, offset, padding, _ = _LAYOUT.unpack_from(
        data
    )
    if magic != _MAGIC[which]:
        raise refused(which, "there is no LUKS header here", "magic")
    if version == 1:
        raise HeaderRefused(
            "LUKS1 is not supported: its header can't hold a token",
            hint="convert it: cryptsetup convert --type luks2 DEVICE (the volume closed, a header backup made)",
            code="disk.header.luks1",
        )
    if version != 2:
        raise refused(which, f"version {version}", "version")
    if size not in SIZES:
        raise refused(which, f"a size of {size} bytes is not one that LUKS2 has", "size")
    if offset != (0 if which == "primary" else size):
        raise refused(which, f"says that it lies at byte {offset}", "offset")
    if algorithm != b"sha256".ljust(32, b"\0"):
        raise refused(which, "checksum algorithm is not sha256", "checksum")
    if not 0 < sequence < MAX_SEQUENCE or any(padding):
        raise refused(which, "sequence number or padding is out of range", "padding")
    name = uuid.rstrip(b"\0")
    if not _UUID.fullmatch(name):
        raise refused(which, "the UUID is not one", "uuid")
    return Binary(size, sequence, label, salt, name.decode("ascii"), subsystem)
