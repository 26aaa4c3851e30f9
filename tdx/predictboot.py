"""What measures a boot's parts, and in which forms: the digests that an event log can hold of given files.

Pure. A firmware and a boot loader hand kernel, initrd and command line on in one of a few ways; which one, the running
machine's own log tells (tdx.predict). Sources: Linux Documentation/admin-guide/efi-stub.rst and
drivers/firmware/efi/libstub (events ``LOADED_IMAGE::LoadOptions`` and ``Linux initrd``, PCR 9), systemd
docs/TPM2_PCR_MEASUREMENTS.md and systemd-stub(7) (sections of a unified kernel image, PCR 11), UEFI 2.10 section 38.4.1
with edk2's map of PCRs: 2 to 6 are RTMR1, 8 to 15 RTMR2; Linux Documentation/arch/x86/boot.rst (setup header).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.core.errors import FormatError, UsageError
from tdx import pe, predictqemu
from tdx.stubinitrd import combined

MAX_COMMAND_LINE = 64 * 1024
MEASURED = (
    *(".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey"),
    *(".profile", ".dtbauto", ".hwids", ".efifw"),
)
"""Sections that systemd-stub measures. (.pcrsig it does not.)"""
QEMU_INITRD = " initrd=initrd"
"""What some firmware adds to the command line under direct boot."""
KERNEL, INITRD, COMMAND_LINE, UNIFIED = "kernel", "initrd", "command line", "unified kernel image"
"""Names of parts."""


class Slot(StrEnum):
    """Where in a log a digest can stand: it means something only there."""

    IMAGE = "image"
    OPTIONS = "command line"
    INITRD = "initrd"
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Parts:
    """``digests``: by slot and part, the digest (48 bytes) for each form it can be handed on in. ``what`` is "direct"
    or "unified"; ``sections`` are those of a unified image that are measured."""

    what: str
    digests: Mapping[tuple[Slot, str], Mapping[str, bytes]]
    sections: frozenset[str] = field(default=frozenset())


def direct(kernel: bytes | None, initrd: bytes | None, cmdline: str | None, *, has_initrd: bool = True) -> Parts:
    """A kernel that firmware or boot loader starts with an initrd and a command line; None: not known.

    ``has_initrd`` False: there is none. Raises FormatError (no PE image), UsageError (no command line).
    """
    digests: dict[tuple[Slot, str], Mapping[str, bytes]] = {}
    if kernel is not None:
        size = len(initrd) if initrd is not None else (None if has_initrd else 0)
        digests[Slot.IMAGE, KERNEL] = dict(_images(kernel)) | dict(_patched(kernel, size))
        digests[Slot.CONTENT, KERNEL] = {"file": _sha384(kernel)}
    if initrd is not None:
        digests[Slot.INITRD, INITRD] = {"file": _sha384(initrd)}
        digests[Slot.CONTENT, INITRD] = {"file": _sha384(initrd)}
    if cmdline is not None:
        digests[Slot.OPTIONS, COMMAND_LINE] = dict(_options(cmdline))
    return Parts("direct", digests)


def unified(uki: bytes, passed: str | None = None) -> Parts:
    """A unified kernel image with systemd's stub. ``passed`` is a command line that came from outside of it.

    Raises FormatError for a file that is none, or has two sections of one name (profiles: not predicted).
    """
    image = pe.parse(uki)
    found = _measured(image)
    digests: dict[tuple[Slot, str], Mapping[str, bytes]] = {
        (Slot.IMAGE, UNIFIED): dict(_images(uki)),
        (Slot.INITRD, INITRD): {form: _sha384(data) for form, data in combined(found)},
    }
    measured = {name: content for name, content in found.items() if name in MEASURED}
    for name, content in measured.items():
        digests[Slot.CONTENT, name] = {"section": _sha384(content)}
    try:
        digests[Slot.IMAGE, "kernel in the image"] = dict(_images(found[".linux"]))
    except FormatError:
        pass  # then no firmware loads it as an image either
    if ".cmdline" in found:
        digests[Slot.OPTIONS, COMMAND_LINE] = dict(_options(_stub_text(found[".cmdline"])))
    if passed is not None:
        digests[Slot.OPTIONS, "command line from outside"] = dict(_options(passed))
    return Parts("unified", digests, frozenset(measured))


def is_unified(data: bytes) -> bool:
    """Whether a PE image has a kernel of its own inside. Raises FormatError for what is no PE image."""
    return any(section.name == ".linux" for section in pe.parse(data).sections)


def _measured(image: pe.Image) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for section in image.sections:
        if section.name not in (*MEASURED, ".pcrsig"):
            continue
        if section.name in found:
            raise FormatError(
                f"PE: two sections {section.name}: images with several profiles can't be predicted",
                record="PE",
                code="format.pe",
            )
        found[section.name] = image.content(section)
    if ".linux" not in found:
        raise FormatError("PE: no section .linux: not a unified kernel image", record="PE", code="format.pe")
    return found


def _images(data: bytes) -> Iterator[tuple[str, bytes]]:
    image = pe.parse(data)
    yield "as it is", pe.authenticode(image)
    if len(data) % 8:
        yield "filled up to 8 bytes", pe.authenticode(image, padded=True)


def _patched(kernel: bytes, initrd_size: int | None) -> Iterator[tuple[str, bytes]]:
    """Older QEMU writes into the setup header before the firmware gets the kernel."""
    if initrd_size is None:
        return
    for form, data in predictqemu.patched(kernel, initrd_size):
        for how, digest in _images(data):
            yield f"{form}, {how}", digest


def _options(text: str) -> Iterator[tuple[str, bytes]]:
    """The load options: UCS-2, with or without the NUL that ends them."""
    if "\0" in text or len(text) > MAX_COMMAND_LINE:
        raise UsageError("the command line has a NUL, or is too long", code="usage.cmdline")
    plain = text.rstrip("\n").removesuffix(QEMU_INITRD)
    for addition, where in (("", ""), (QEMU_INITRD, f" with{QEMU_INITRD}")):
        encoded = (plain + addition).encode("utf-16-le", "surrogatepass")
        yield f"text{where}, NUL at its end", _sha384(encoded + b"\0\0")
        yield f"text{where}", _sha384(encoded)


def _stub_text(content: bytes) -> str:
    """As systemd-stub cleans its own command line: control characters are spaces, none at either end."""
    text = content.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(" " if letter <= "\x1f" else letter for letter in text).strip(" ")


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()
