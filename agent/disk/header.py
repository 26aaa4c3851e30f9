"""A LUKS2 header from a device: both copies read into RAM with bounds, the newest valid one chosen (DESIGN.md 6, I5).

cryptsetup writes a copy as: header without checksum, JSON, header with checksum; the primary first, then the
secondary. So an edit that was cut off leaves one copy invalid or older, and the newest valid copy is the state.
cryptsetup decides likewise and mends the other at its next edit. Two valid copies of one age that differ are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.core.errors import HeaderRefused
from agent.disk import binary, metadata
from agent.disk.binary import SIZES, Binary, Which, refused
from agent.disk.metadata import Metadata

Read = Callable[[int, int], bytes]
"""``read(offset, size)``: bytes of the device; fewer than ``size`` only at its end."""


@dataclass(frozen=True, slots=True)
class Header:
    """A header that passed the allow-list. ``intact`` is False when one of its two copies must be mended."""

    binary: Binary
    metadata: Metadata
    intact: bool

    @property
    def uuid(self) -> str:
        return self.binary.uuid


def load(read: Read, device_size: int) -> Header:
    """The header of a device of ``device_size`` bytes. Raises HeaderRefused, naming what and where."""
    try:
        primary: tuple[Binary, bytes] | HeaderRefused = _primary(read)
    except HeaderRefused as error:
        if error.code == "disk.header.luks1":
            raise
        primary = error
    secondary = _secondary(read, None if isinstance(primary, HeaderRefused) else primary[0].size)
    chosen, text, intact = _choose(primary, secondary)
    parsed = metadata.parse(text, chosen.size)
    _fits(parsed, device_size)
    return Header(chosen, parsed, intact)


def _primary(read: Read) -> tuple[Binary, bytes]:
    size = binary.size_of(read(0, binary.BINARY_SIZE), "primary")
    return binary.parse(read(0, size), "primary")


def _secondary(read: Read, known_size: int | None) -> tuple[Binary, bytes] | None:
    for size in SIZES if known_size is None else (known_size,):
        try:
            return _copy_at(read, size, "secondary")
        except HeaderRefused:
            continue
    return None


def _copy_at(read: Read, size: int, which: Which) -> tuple[Binary, bytes]:
    start = read(size, binary.BINARY_SIZE)
    if binary.size_of(start, which) != size:
        raise refused(which, "its size is not where it lies", "offset")
    return binary.parse(read(size, size), which)


def _choose(
    primary: tuple[Binary, bytes] | HeaderRefused, secondary: tuple[Binary, bytes] | None
) -> tuple[Binary, bytes, bool]:
    if isinstance(primary, HeaderRefused):
        if secondary is None:
            raise primary
        return (*secondary, False)
    if secondary is None:
        return (*primary, False)
    if primary[0].sequence == secondary[0].sequence:
        if primary[1] != secondary[1] or primary[0].uuid != secondary[0].uuid:
            raise refused("both copies", "of one age, but they differ", "copies")
        return (*primary, True)
    newest = max(primary, secondary, key=lambda copy: copy[0].sequence)
    return (*newest, False)


def _fits(parsed: Metadata, device_size: int) -> None:
    end = parsed.data_offset + (parsed.data_size or 1)
    if end > device_size:
        raise refused("segment 0", f"ends at byte {end}, the device has {device_size}", "bounds")
