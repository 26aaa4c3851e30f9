"""What an OVMF firmware image says about its own launch: the table at its end, the SEV metadata, the reset vector.

Pure. The file is hostile: every offset, count and size is bounded before it is used. Sources: edk2
OvmfPkg/ResetVector (Ia16/ResetVectorVtf0.asm: table of GUIDed entries that ends 32 bytes before the end of the
image, read backwards; X64/OvmfSevMetadata.asm: sections), QEMU hw/i386/pc_sysfw_ovmf.c, target/i386/sev.c.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from agent.core.errors import FormatError, Oversized, Truncated
from agent.core.wire import Record, raw, uint

MAX_BYTES = 64 << 20
"""Longest firmware image; OVMF is built for 2, 4 or 16 MiB."""
PAGE = 4096
TOP = 1 << 32
"""The image ends at 4 GiB, where the processor starts."""
MAX_SECTIONS = 64
MAX_SECTION_BYTES = 256 << 20
"""Of all sections together: a hash for each page."""
MAX_ENTRIES = 64

_AFTER_TABLE = 32
FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
HASH_TABLE = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
RESET_BLOCK = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SEV_METADATA = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc")


class Kind(IntEnum):
    """What a section of guest memory is for."""

    SEC_MEM = 1
    SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    KERNEL_HASHES = 0x10


_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Section:
    """``size`` bytes of guest memory at ``gpa``, whole pages."""

    kind: Kind
    gpa: int
    size: int


@dataclass(frozen=True, slots=True)
class Firmware:
    """``reset_eip`` is where application processors start (0: the image does not say), ``hash_table`` the address
    of the kernel hashes (0: none), ``sections`` in file order, which is the order of the launch."""

    data: bytes
    reset_eip: int
    hash_table: int
    sections: tuple[Section, ...]

    @property
    def gpa(self) -> int:
        return TOP - len(self.data)

    def has(self, kind: Kind) -> bool:
        return any(section.kind is kind for section in self.sections)


class _Entry(Record, size=18, title="OVMF table entry"):
    size = uint(0, 16)
    guid = raw(2, 16)


class _Metadata(Record, size=16, title="OVMF SEV metadata"):
    signature = raw(0, 4)
    size = uint(4, 32)
    version = uint(8, 32)
    count = uint(12, 32)


class _Section(Record, size=12, title="OVMF SEV metadata section"):
    gpa = uint(0, 32)
    size = uint(4, 32)
    kind = uint(8, 32)


def parse(data: bytes) -> Firmware:
    """The firmware in ``data``, a whole image. Raises FormatError ("format.ovmf"), Oversized, Truncated."""
    if len(data) > MAX_BYTES:
        raise Oversized(f"firmware image of {len(data)} bytes: {MAX_BYTES} at the most", record="OVMF")
    if not data or len(data) % PAGE:
        raise _bad(f"{len(data)} bytes are no whole number of pages", hint="an image of code, without the variables?")
    table: dict[uuid.UUID, bytes] = {}
    for guid, content in _table(data):
        table.setdefault(guid, content)  # QEMU searches from the end, too, and takes the first it meets
    if SEV_METADATA not in table:
        raise _bad("it has no SEV metadata", hint="a firmware built for SEV-SNP is needed: OVMF.amdsev.fd and its kind")
    return Firmware(
        bytes(data),
        _word(table.get(RESET_BLOCK, bytes(4)), "reset block"),
        _word(table.get(HASH_TABLE, bytes(4)), "hash table entry"),
        tuple(_sections(data, _word(table[SEV_METADATA], "SEV metadata entry"))),
    )


def _table(data: bytes) -> Iterator[tuple[uuid.UUID, bytes]]:
    """The entries, last one first: each ends with its size and GUID."""
    end = len(data) - _AFTER_TABLE - _Entry.SIZE
    footer = _Entry.parse(data[end : end + _Entry.SIZE])
    if uuid.UUID(bytes_le=footer.guid) != FOOTER:
        raise _bad("there is no OVMF table at its end", hint="is this an OVMF image?")
    start = end - (footer.size - _Entry.SIZE)
    if footer.size < _Entry.SIZE or start < 0:
        raise _bad(f"table of {footer.size} bytes")
    for _ in range(MAX_ENTRIES):
        if end - start < _Entry.SIZE:
            return
        entry = _Entry.parse(data[end - _Entry.SIZE : end])
        if not _Entry.SIZE <= entry.size <= end - start:
            raise _bad(f"table entry of {entry.size} bytes, {end - start} are left")
        yield uuid.UUID(bytes_le=entry.guid), data[end - entry.size : end - _Entry.SIZE]
        end -= entry.size
    raise _bad(f"more than {MAX_ENTRIES} table entries")


def _word(content: bytes, what: str) -> int:
    if len(content) < 4:
        raise Truncated(f"OVMF: {what} of {len(content)} bytes, 4 are needed", record="OVMF")
    return int.from_bytes(content[:4], "little")


def _sections(data: bytes, from_end: int) -> Iterator[Section]:
    start = len(data) - from_end
    if not 0 <= start < len(data):
        raise _bad(f"SEV metadata {from_end} bytes from the end")
    header = _Metadata.parse_prefix(data[start:])
    if header.signature != b"ASEV" or header.version != 1:
        raise _bad("its SEV metadata are not of version 1")
    if header.count > MAX_SECTIONS or header.size < _Metadata.SIZE + header.count * _Section.SIZE:
        raise _bad(f"{header.count} sections in {header.size} bytes of SEV metadata")
    left = MAX_SECTION_BYTES
    for index in range(header.count):
        at = start + _Metadata.SIZE + index * _Section.SIZE
        section = _section(_Section.parse(data[at : at + _Section.SIZE]))
        left -= section.size
        if left < 0:
            raise _bad(f"sections of more than {MAX_SECTION_BYTES} bytes")
        yield section


def _section(record: _Section) -> Section:
    if record.kind not in _KINDS:
        raise _bad(f"section of kind 0x{record.kind:x}: not known, so its measurement is not either")
    if record.gpa % PAGE or record.size % PAGE or not record.size or record.gpa + record.size > TOP:
        raise _bad(f"section at 0x{record.gpa:x} of 0x{record.size:x} bytes: whole pages below 4 GiB are allowed")
    return Section(Kind(record.kind), record.gpa, record.size)


def _bad(message: str, *, hint: str = "") -> FormatError:
    return FormatError(f"OVMF: {message}", record="OVMF", code="format.ovmf", hint=hint)
