"""The initrd that systemd-stub hands to the kernel: sections of the image, joined, with small archives of its own.

Pure. Source: systemd src/boot/stub.c and cpio.c (252 to 258): microcode, initrd, then an archive in cpio's newc form
with one file in /.extra for each section that user space is to see; each part padded to 4 bytes where there are
several, one alone as it is. Credentials and extensions from the boot partition would follow: they are not predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count

_FIRST = (".ucode", ".initrd")
_SIGNATURES = {".pcrsig": "tpm2-pcr-signature.json", ".pcrpkey": "tpm2-pcr-public-key.pem"}
_DESCRIPTIONS = {".osrel": "os-release", ".profile": "profile"}
"""Handed on since systemd 257."""
_FOLDER, _FOLDER_MODE, _FILE_MODE = ".extra", 0o40555, 0o100444
_TRAILER = "TRAILER!!!"


def combined(sections: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """(form, initrd) for each generation of the stub; nothing where the kernel gets no initrd."""
    for form, extra in (
        ("stub before 257", _SIGNATURES),
        ("stub since 257", _SIGNATURES | _DESCRIPTIONS),
    ):
        parts = [sections[name] for name in _FIRST if sections.get(name)]
        parts += [archive(extra[name], sections[name]) for name in extra if sections.get(name)]
        if len(parts) == 1:
            yield form, parts[0]
        elif parts:
            yield form, b"".join(_padded(part) for part in parts)


def archive(name: str, content: bytes) -> bytes:
    """A cpio archive (newc) with /.extra/``name``, as the stub writes it: no owner, no times, inodes from 1."""
    inodes = count(1)
    folder = _member(next(inodes), _FOLDER_MODE, _FOLDER, b"")
    file = _member(next(inodes), _FILE_MODE, f"{_FOLDER}/{name}", content)
    # The stub's trailer is a constant with an upper-case digit; the other numbers are in lower case.
    trailer = _header(0, 0, 0, 0).decode()[:-16] + f"{len(_TRAILER) + 1:08X}" + "0" * 8
    return folder + file + _padded(trailer.encode() + _TRAILER.encode() + b"\0")


def _member(inode: int, mode: int, name: str, content: bytes) -> bytes:
    head = _header(inode, mode, len(content), len(name) + 1)
    return _padded(head + name.encode() + b"\0") + _padded(content)


def _header(inode: int, mode: int, size: int, name_size: int) -> bytes:
    """Fields: inode, mode, uid, gid, links, mtime, size, four device numbers, size of the name, checksum."""
    fields = (inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0)
    return b"070701" + b"".join(b"%08x" % field for field in fields)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
