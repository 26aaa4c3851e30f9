"""Small PE images and whole boots, made for tests: what a firmware would have logged of them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping

from tdx import event as kinds
from tdx.event import Event
from tdx.eventlog import replay

HEADERS = 0x400
ALIGNMENT = 0x200
NOT_MEASURED = (".text", ".pcrsig")


def pe(sections: Mapping[str, bytes], *, certificates: bytes = b"", tail: bytes = b"", plus: bool = True) -> bytes:
    """A PE32+ (or PE32) image with these sections, in order."""
    optional_size = 240 if plus else 224
    optional = bytearray(optional_size)
    struct.pack_into("<H", optional, 0, 0x20B if plus else 0x10B)
    struct.pack_into("<II", optional, 32, 0x1000, ALIGNMENT)
    struct.pack_into("<I", optional, 60, HEADERS)
    struct.pack_into("<H", optional, 68, 10)
    struct.pack_into("<I", optional, 108 if plus else 92, 16)
    table, body, memory = b"", b"", 0x1000
    for name, content in sections.items():
        size = -(-len(content) // ALIGNMENT) * ALIGNMENT
        table += struct.pack(
            "<8sIIIIIIHHI", name.encode(), len(content), memory, size, HEADERS + len(body), 0, 0, 0, 0, 0
        )
        body += content.ljust(size, b"\0")
        memory += -(-len(content) // 0x1000) * 0x1000
    struct.pack_into("<I", optional, 56, memory)
    body += tail
    if certificates:
        security = (112 if plus else 96) + 32
        struct.pack_into("<II", optional, security, HEADERS + len(body), len(certificates))
    start = 0x80
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", start)
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, optional_size, 0x22)
    return (dos.ljust(start, b"\0") + coff + bytes(optional) + table).ljust(HEADERS, b"\0") + body + certificates


def kernel(text: str, *, version: int = 0x20F, size: int = 0x3000) -> bytes:
    """A kernel with an EFI stub and a setup header (protocol ``version``)."""
    data = bytearray(pe({".text": text.encode().ljust(size, b"k")}))
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, version)
    data[0x211] = 0x01
    struct.pack_into("<I", data, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<H", data, 0x236, 0x7F)
    # The PE header of such a kernel lies behind the setup header.
    header = bytes(data[0x80 : 0x80 + 24 + 240 + 40])
    data[0x280 : 0x280 + len(header)] = header
    data[0x80:0x1F0] = bytes(0x1F0 - 0x80)
    struct.pack_into("<I", data, 0x3C, 0x280)
    return bytes(data)


def sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def tagged(tag: int, text: str) -> bytes:
    return struct.pack("<II", tag, len(text) + 1) + text.encode() + b"\0"


def log(entries: Iterable[tuple[int, int, bytes, bytes]]) -> tuple[Event, ...]:
    """Events from (register, kind, digest, data)."""
    return tuple(Event(number, *entry) for number, entry in enumerate(entries, 1))


def rtmrs(events: Iterable[Event]) -> dict[int, bytes]:
    values = replay(events)
    return {index: values[index] for index in (0, 1, 2)}


FIRMWARE = (
    (0, kinds.FIRMWARE_BLOB2, sha384(b"cfv"), b"cfv"),
    (0, kinds.SEPARATOR, sha384(bytes(4)), bytes(4)),
    (
        1,
        kinds.EFI_ACTION,
        sha384(b"Calling EFI Application from Boot Option"),
        b"Calling EFI Application from Boot Option",
    ),
    (1, kinds.SEPARATOR, sha384(bytes(4)), bytes(4)),
)
LEAVING = tuple(
    (1, kinds.EFI_ACTION, sha384(text), text)
    for text in (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")
)


def image_event(digest: bytes) -> tuple[int, int, bytes, bytes]:
    return 1, kinds.BOOT_APPLICATION, digest, struct.pack("<QQQQ", 0x7B0D4018, 1 << 20, 0, 4) + b"\x7f\xff\x04\0"


def stub_events(options: bytes, initrd: bytes | None) -> list[tuple[int, int, bytes, bytes]]:
    """What Linux's EFI stub measures."""
    found = [(2, kinds.EVENT_TAG, sha384(options), tagged(0x8F3B22ED, "LOADED_IMAGE::LoadOptions"))]
    if initrd is not None:
        found.append((2, kinds.EVENT_TAG, sha384(initrd), tagged(0x8F3B22EC, "Linux initrd")))
    return found


def direct_boot(image: bytes, initrd: bytes | None, options: bytes) -> tuple[Event, ...]:
    """A log of direct boot: ``image`` is the Authenticode hash of what the firmware loaded."""
    return log([*FIRMWARE, image_event(image), *stub_events(options, initrd), *LEAVING])


def unified_boot(
    image: bytes, sections: Mapping[str, bytes], options: bytes, initrd: bytes | None, *, inner: bytes | None = None
) -> tuple[Event, ...]:
    """A log of a unified kernel image: loader, image, sections, perhaps the kernel within, the kernel's own."""
    entries = [*FIRMWARE, image_event(sha384(b"systemd-boot")), image_event(image)]
    for name, content in sections.items():
        if name not in NOT_MEASURED:
            described = (name + "\0").encode("utf-16-le")
            entries.append((2, kinds.IPL, sha384(name.encode() + b"\0"), described))
            entries.append((2, kinds.IPL, sha384(content), described))
    entries += [image_event(inner)] if inner else []
    return log([*entries, *stub_events(options, initrd), *LEAVING])


def ucs2(text: str) -> bytes:
    return (text + "\0").encode("utf-16-le")
