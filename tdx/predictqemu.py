"""A Linux kernel as QEMU hands it to the firmware under direct boot: older versions fill in the setup header first.

Pure. Sources: Linux Documentation/arch/x86/boot.rst (the setup header), QEMU hw/i386/x86-common.c and pc.c, up to 10.0.
Newer QEMU hands a confidential guest the file as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

MIN_KERNEL = 0x1000
_MAGIC = slice(0x202, 0x206)
_VERSION, _LOADER, _FLAGS, _IMAGE, _IMAGE_SIZE, _HEAP, _CMDLINE, _INITRD_MAX, _XFLAGS = (
    *(0x206, 0x210, 0x211, 0x218, 0x21C, 0x224, 0x228, 0x22C, 0x236),
)
_LOADED_HIGH, _CAN_USE_HEAP, _ABOVE_4G = 0x01, 0x80, 0x40
_QEMU = 0xB0
_REAL_ADDRESS, _CMDLINE_ADDRESS = 0x10000, 0x20000
_ACPI_DATA = 0x28000
"""Kept free below the top of low memory (pc.c, acpi_data_size)."""
LOW_MEMORY = {"QEMU below 10.1, low memory 2 GiB": 2 << 30, "QEMU below 10.1, low memory 2.75 GiB": 0xB000_0000}
"""Memory below 4 GiB of a q35 machine: 2 GiB from 2.75 GiB of memory on, and the most there is before that."""


def patched(kernel: bytes, initrd_size: int) -> Iterator[tuple[str, bytes]]:
    """(form, kernel) for each machine we know of; nothing for a kernel too old, or an initrd too large."""
    if len(kernel) < MIN_KERNEL or kernel[_MAGIC] != b"HdrS" or not kernel[_FLAGS] & _LOADED_HIGH:
        return
    version = int.from_bytes(kernel[_VERSION : _VERSION + 2], "little")
    if version < 0x203:
        return
    for form, low in LOW_MEMORY.items():
        header = bytearray(kernel[:MIN_KERNEL])
        header[_LOADER] = _QEMU
        header[_FLAGS] |= _CAN_USE_HEAP
        _put(header, _HEAP, _CMDLINE_ADDRESS - _REAL_ADDRESS - 0x200)
        _put(header, _CMDLINE, _CMDLINE_ADDRESS)
        if initrd_size:
            room = min(_initrd_max(header, version), low - _ACPI_DATA - 1)
            if initrd_size >= room:
                continue
            _put(header, _IMAGE, (room - initrd_size) & ~0xFFF)
            _put(header, _IMAGE_SIZE, initrd_size)
        yield form, bytes(header) + kernel[MIN_KERNEL:]
        if not initrd_size:
            return


def _initrd_max(header: bytearray, version: int) -> int:
    if version >= 0x20C and header[_XFLAGS] & _ABOVE_4G:
        return 0xFFFF_FFFF
    return int.from_bytes(header[_INITRD_MAX : _INITRD_MAX + 4], "little") or 0x37FF_FFFF


def _put(header: bytearray, at: int, value: int) -> None:
    header[at : at + 4] = value.to_bytes(4, "little")
