"""Files added to an initramfs: a second archive behind the first, which the kernel unpacks over it.

Source: Documentation/driver-api/early-userspace/buffer-format.rst (newc).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_DIRECTORY, _FILE = 0o040755, 0o100644
_HEADER = 110


def added(initrd: Path, files: Mapping[str, bytes], target: Path) -> None:
    """Write ``target``: ``initrd`` with ``files`` (path without leading slash to content) over it."""
    data = initrd.read_bytes()
    folders = sorted({str(parent) for name in files for parent in Path(name).parents if str(parent) != "."})
    archive = b"".join(_entry(name, _DIRECTORY, b"") for name in folders)
    archive += b"".join(_entry(name, _FILE, content) for name, content in files.items())
    target.write_bytes(data + bytes(-len(data) % 4) + archive + _entry("TRAILER!!!", 0, b""))


def _entry(name: str, mode: int, content: bytes) -> bytes:
    # inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, no checksum
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
