"""PE images as UEFI firmware measures them: the Authenticode hash, and the sections of a unified kernel image.

Pure. The file is hostile: every offset and size is bounded by what is there. Sources: Microsoft PE and COFF
Specification 8.3 (headers, attribute certificate table), Windows Authenticode Portable Executable Signature Format
1.0 (what the hash covers), TCG PC Client Platform Firmware Profile 1.06, section 10.2.3 (images are measured so).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from agent.core.canonical import shown
from agent.core.errors import FormatError, Oversized, Truncated

MAX_BYTES = 1 << 30
MAX_SECTIONS = 96
"""As many as Windows takes; the format has 16 bits for them."""
MAX_ZERO_FILL = 1 << 20
"""Bytes of zeros that a section may have in memory beyond the file's."""

_LFANEW, _PE_SIGNATURE = 0x3C, b"PE\0\0"
_COFF_SIZE, _SECTION_SIZE = 20, 40
_PE32, _PE32_PLUS = 0x10B, 0x20B
_DIRECTORIES = {_PE32: 96, _PE32_PLUS: 112}
"""Offset of the data directories in the optional header, by its magic."""
_CHECKSUM, _HEADERS_SIZE = 64, 60
_SECURITY = 4
"""Index of the certificate table among the directories."""


@dataclass(frozen=True, slots=True)
class Section:
    """``virtual`` bytes in memory, of which the first ``size`` lie in the file from ``offset`` on."""

    name: str
    virtual: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Image:
    """A parsed image. ``holes`` are the byte ranges of the headers that the hash leaves out, in order;
    ``certificates`` is the size of the certificate table at the end."""

    data: bytes
    headers: int
    holes: tuple[tuple[int, int], ...]
    certificates: int
    sections: tuple[Section, ...]

    def hashed(self) -> Iterator[memoryview]:
        """What the Authenticode hash covers, in order, before any padding."""
        view, at = memoryview(self.data), 0
        for start, end in self.holes:
            yield view[at:start]
            at = end
        yield view[at : self.headers]
        covered = self.headers
        for section in sorted((one for one in self.sections if one.size), key=lambda one: one.offset):
            yield view[section.offset : section.offset + section.size]
            covered += section.size
        # What lies behind the sections counts, but for the certificates, which are last.
        if (rest := len(view) - self.certificates) > covered:
            yield view[covered:rest]

    def content(self, section: Section) -> bytes:
        """A section as it lies in memory. Raises FormatError where that is far more than the file has."""
        if section.virtual > section.size + MAX_ZERO_FILL:
            raise _bad(
                f"section {shown(section.name)} is {section.virtual} bytes in memory, {section.size} in the file"
            )
        found = self.data[section.offset : section.offset + min(section.size, section.virtual)]
        return found.ljust(section.virtual, b"\0")


def parse(data: bytes) -> Image:
    """The image in ``data``, a whole file. Raises FormatError (``format.pe``), Truncated, Oversized."""
    if len(data) > MAX_BYTES:
        raise Oversized(f"PE image of {len(data)} bytes: {MAX_BYTES} at the most", record="PE")
    if data[:2] != b"MZ":
        raise _bad("it does not start as one", hint="a kernel with an EFI stub, or a unified kernel image, is needed")
    start = _number(data, _LFANEW, 4)
    if data[start : start + 4] != _PE_SIGNATURE:
        raise _bad("there is no PE header where the file points to")
    coff = start + 4
    optional, optional_size = coff + _COFF_SIZE, _number(data, coff + 16, 2)
    magic = _number(data, optional, 2)
    if magic not in _DIRECTORIES:
        raise _bad(f"optional header of kind 0x{magic:x}")
    directories = optional + _DIRECTORIES[magic]
    headers = _number(data, optional + _HEADERS_SIZE, 4)
    table = optional + optional_size
    sections = tuple(_sections(data, table, _number(data, coff + 2, 2)))
    if headers < table + len(sections) * _SECTION_SIZE or headers > len(data):
        raise _bad(f"headers of {headers} bytes")
    holes = [(optional + _CHECKSUM, optional + _CHECKSUM + 4)]
    certificates = 0
    entry = directories + 8 * _SECURITY
    if _number(data, directories - 4, 4) > _SECURITY and entry + 8 <= table:
        holes.append((entry, entry + 8))
        certificates = _number(data, entry + 4, 4)
    image = Image(bytes(data), headers, tuple(holes), certificates, sections)
    if headers + sum(one.size for one in sections) + certificates > len(data):
        raise _bad("its headers, sections and certificates are more than there is")
    return image


def authenticode(image: Image, *, padded: bool = False) -> bytes:
    """SHA-384 of the image as the firmware measures it (48 bytes).

    ``padded``: filled up with zeros to whole 8 bytes, as signing tools do before they sign; firmware differs in this,
    and it matters only to unsigned files of odd sizes.
    """
    digest = hashlib.sha384()
    for part in image.hashed():
        digest.update(part)
    if padded:
        digest.update(bytes(-len(image.data) % 8))
    return digest.digest()


def _sections(data: bytes, table: int, count: int) -> Iterator[Section]:
    if count > MAX_SECTIONS:
        raise _bad(f"{count} sections")
    for at in range(table, table + count * _SECTION_SIZE, _SECTION_SIZE):
        raw = _bytes(data, at, _SECTION_SIZE)
        size, offset = _number(raw, 16, 4), _number(raw, 20, 4)
        if size and offset + size > len(data):
            raise Truncated(f"PE: a section ends at {offset + size}, the file at {len(data)}", record="PE")
        name = raw[:8].rstrip(b"\0").decode("ascii", "backslashreplace")
        yield Section(name, _number(raw, 8, 4), size, offset)


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(_bytes(data, at, size), "little")


def _bytes(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise Truncated(f"PE: {size} bytes are needed at {at}, the file ends at {len(data)}", record="PE", offset=at)
    return data[at : at + size]


def _bad(message: str, *, hint: str = "") -> FormatError:
    return FormatError(f"PE: {message}", record="PE", code="format.pe", hint=hint)
