"""Small OVMF-like images, made for tests: the table at the end, the SEV metadata, nothing that runs."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence

FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
HASH_TABLE = "7255371f-3a3b-4b04-927b-1da6efa8d454"
RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
SEV_METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
SIZE = 0x20000
HASHES = 0x10C00
"""Inside the last section, as OVMF.amdsev.fd has it."""
SECTIONS = (
    (0x800000, 0x9000, 1),
    (0x80A000, 0x3000, 1),
    (0x80D000, 0x1000, 2),
    (0x80E000, 0x1000, 3),
    (0x80F000, 0x1000, 4),
    (0x810000, 0x1000, 1),
    (0x10000, 0x1000, 0x10),
)


def image(
    *,
    size: int = SIZE,
    sections: Sequence[tuple[int, int, int]] = SECTIONS,
    hashes: int = HASHES,
    reset: int = 0x80B004,
    fill: int = 7,
) -> bytes:
    """An image of ``size`` bytes; a value of 0 for ``hashes`` or ``reset`` leaves its entry out."""
    metadata = struct.pack("<4sIII", b"ASEV", 16 + 12 * len(sections), 1, len(sections))
    metadata += b"".join(struct.pack("<III", *section) for section in sections)
    from_end = 0x1000
    entries = entry(SEV_METADATA, struct.pack("<I", from_end))
    if reset:
        entries += entry(RESET_BLOCK, struct.pack("<I", reset))
    if hashes:
        entries += entry(HASH_TABLE, struct.pack("<II", hashes, 0x400))
    return assemble(metadata, entries, size=size, from_end=from_end, fill=fill)


def assemble(metadata: bytes, entries: bytes, *, size: int = SIZE, from_end: int = 0x1000, fill: int = 7) -> bytes:
    """An image around given metadata and table entries."""
    body = bytearray((index * fill) & 0xFF for index in range(size))
    body[size - from_end : size - from_end + len(metadata)] = metadata
    footer = struct.pack("<H", len(entries) + 18) + uuid.UUID(FOOTER).bytes_le
    end = size - 32
    body[end - len(entries) - len(footer) : end] = entries + footer
    return bytes(body)


def entry(guid: str, content: bytes) -> bytes:
    return content + struct.pack("<H", len(content) + 18) + uuid.UUID(guid).bytes_le
