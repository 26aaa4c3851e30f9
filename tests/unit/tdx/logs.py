"""A small event log of our own for tests: one event of each kind that matters."""

from __future__ import annotations

import hashlib
import struct
from uuid import UUID

from tdx import event as ev
from tdx.event import Event

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c").bytes_le


def sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def variable(name: str, value: bytes, guid: bytes = GLOBAL) -> bytes:
    return guid + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


def path_node(kind: int, subtype: int, body: bytes) -> bytes:
    return struct.pack("<BBH", kind, subtype, 4 + len(body)) + body


END = path_node(0x7F, 0xFF, b"")
FILE = path_node(4, 4, "\\EFI\\x.efi\0".encode("utf-16-le"))


def image(path: bytes) -> bytes:
    return struct.pack("<QQQQ", 0x7000, 4096, 0, len(path)) + path


def events() -> list[Event]:
    """Numbered as they come out of a CCEL, where the header is number 1."""
    boot = variable("BootOrder", b"\1\0\0\0")
    grub = b"grub_cmd: linux /vmlinuz\0"
    tag = struct.pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0"
    rows = [
        (0, ev.VARIABLE_DRIVER_CONFIG, None, variable("SecureBoot", b"\1")),
        (0, ev.SEPARATOR, None, bytes(4)),
        (0, ev.VARIABLE_BOOT, sha384(b"\1\0\0\0"), boot),
        (1, ev.BOOT_APPLICATION, sha384(b"an image"), image(FILE + END)),
        (None, ev.NO_ACTION, bytes(48), b"not extended"),
        (2, ev.IPL, sha384(b"linux /vmlinuz"), grub),
        (2, ev.EVENT_TAG, sha384(b"an initrd"), tag),
    ]
    return [
        Event(number, register, kind, sha384(data) if digest is None else digest, data)
        for number, (register, kind, digest, data) in enumerate(rows, 2)
    ]
