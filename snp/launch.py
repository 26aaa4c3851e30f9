"""The launch digest (MEASUREMENT) of a guest, predicted from what it is started with.

Pure. Source: AMD 56860, SNP_LAUNCH_UPDATE: the digest is chained page by page over PAGE_INFO structures; and QEMU
target/i386/sev.c for the order of pages and for the page of kernel hashes. What is measured: the firmware image, the
sections that its metadata name, the first state of every processor. Kernel, initrd and command line are covered only
by ``hashes``, and only where the firmware has a page for them.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from enum import IntEnum

from agent.core.errors import FormatError, UsageError
from agent.core.wire import Record, raw, uint
from snp import vmsa
from snp.ovmf import PAGE, Firmware, Kind, Section
from snp.vmsa import Vmm

DIGEST_SIZE = 48
MAX_VCPUS = 4096
MAX_COMMAND_LINE = 64 * 1024
_NOTHING = bytes(DIGEST_SIZE)
_VMSA_GPA = 0xFFFF_FFFF_F000
"""Where the firmware records VMSA pages: all ones, cut to a page and to 48 bits."""


class _PageType(IntEnum):
    """AMD 56860, PAGE_TYPE of SNP_LAUNCH_UPDATE."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


class _PageInfo(Record, size=0x70, title="PAGE_INFO"):
    digest_current = raw(0, 48)
    contents = raw(48, 48)
    length = uint(96, 16)
    page_type = uint(98, 8)
    gpa = uint(104, 64)


@dataclass(frozen=True, slots=True)
class KernelHashes:
    """SHA-256 of kernel, initrd and command line as QEMU hands them over (kernel-hashes=on), 32 bytes each."""

    kernel: bytes
    initrd: bytes
    cmdline: bytes

    @classmethod
    def of(cls, kernel: bytes, initrd: bytes, cmdline: str) -> KernelHashes:
        """From SHA-256 of the files (an absent initrd counts as an empty file) and the command line's text.

        Raises UsageError for a command line that can't be one.
        """
        if "\0" in cmdline or len(cmdline.encode()) > MAX_COMMAND_LINE:
            raise UsageError("the command line has a NUL, or is too long", code="usage.cmdline")
        return cls(kernel, initrd, hashlib.sha256(cmdline.encode() + b"\0").digest())


@dataclass(frozen=True, slots=True)
class Launch:
    """How the guest is started. ``cpu`` is its processors' signature (snp.vmsa.signature)."""

    vcpus: int
    cpu: int
    features: int = vmsa.SNP_ACTIVE
    vmm: Vmm = Vmm.QEMU

    def __post_init__(self) -> None:
        if not 1 <= self.vcpus <= MAX_VCPUS:
            raise UsageError(f"{self.vcpus} processors: 1 to {MAX_VCPUS} are possible", code="usage.vcpu")
        if not (0 <= self.cpu < 1 << 32 and 0 <= self.features < 1 << 64):
            raise UsageError("a processor signature has 32 bits, guest features have 64", code="usage.vcpu")


class _Digest:
    """The chain: each page makes the next value from the last one."""

    def __init__(self) -> None:
        self.value = _NOTHING

    def add(self, page_type: _PageType, gpa: int, contents: bytes = _NOTHING) -> None:
        info = _PageInfo.build(
            digest_current=self.value, contents=contents, length=_PageInfo.SIZE, page_type=page_type, gpa=gpa
        )
        self.value = hashlib.sha384(info.data).digest()

    def add_all(self, page_type: _PageType, section: Section) -> None:
        for gpa in range(section.gpa, section.gpa + section.size, PAGE):
            self.add(page_type, gpa)

    def add_data(self, page_type: _PageType, gpa: int, data: bytes) -> None:
        view = memoryview(data)
        for offset in range(0, len(data), PAGE):
            page = hashlib.sha384(view[offset : offset + PAGE]).digest()
            self.add(page_type, gpa + offset, page)


def measurement(firmware: Firmware, launch: Launch, hashes: KernelHashes | None = None) -> bytes:
    """The 48 bytes of MEASUREMENT. ``hashes`` is None for a guest that boots by itself, from its disk.

    Raises FormatError (``format.ovmf``) where the firmware has no place for what is asked.
    """
    _demand(firmware, launch, hashes)
    digest = _Digest()
    digest.add_data(_PageType.NORMAL, firmware.gpa, firmware.data)
    late = [one for one in firmware.sections if launch.vmm is Vmm.EC2 and one.kind is Kind.CPUID]
    for section in firmware.sections:
        if section not in late:
            _add_section(digest, section, firmware, launch.vmm, hashes)
    for section in late:
        digest.add(_PageType.CPUID, section.gpa)
    for number in range(launch.vcpus):
        eip = firmware.reset_eip if number else vmsa.RESET_VECTOR
        page = vmsa.page(eip, cpu=launch.cpu, features=launch.features, vmm=launch.vmm)
        digest.add_data(_PageType.VMSA, _VMSA_GPA, page)
    return digest.value


def _demand(firmware: Firmware, launch: Launch, hashes: KernelHashes | None) -> None:
    if launch.vcpus > 1 and not firmware.reset_eip:
        raise _bad("it does not say where further processors start")
    if hashes is None:
        return
    if not firmware.has(Kind.KERNEL_HASHES) or not firmware.hash_table:
        raise _bad(
            "it has no place for kernel hashes: a kernel started with it is not measured",
            hint="take a firmware built for direct boot (OvmfPkg/AmdSev: OVMF.amdsev.fd), or leave kernel, initrd and "
            "command line out",
        )
    if firmware.hash_table % PAGE + len(_hash_table(hashes)) > PAGE:
        raise _bad("its table of kernel hashes does not fit its page")


def _add_section(digest: _Digest, section: Section, firmware: Firmware, vmm: Vmm, hashes: KernelHashes | None) -> None:
    if section.kind is Kind.KERNEL_HASHES and hashes is not None:
        offset = firmware.hash_table % PAGE
        page = (bytes(offset) + _hash_table(hashes)).ljust(PAGE, b"\0")
        if section.size != PAGE or section.gpa != firmware.hash_table - offset:
            raise _bad("its page of kernel hashes is not where its table of kernel hashes is")
        digest.add_data(_PageType.NORMAL, section.gpa, page)
    elif section.kind is Kind.SECRETS:
        digest.add(_PageType.SECRETS, section.gpa)
    elif section.kind is Kind.CPUID:
        digest.add(_PageType.CPUID, section.gpa)
    elif section.kind is Kind.SEC_MEM and vmm is Vmm.GCE:
        digest.add_all(_PageType.UNMEASURED, section)
    else:
        digest.add_all(_PageType.ZERO, section)


class _HashEntry(Record, size=50, title="kernel hash entry"):
    guid = raw(0, 16)
    length = uint(16, 16)
    sha256 = raw(18, 32)


_TABLE = uuid.UUID("9438d606-4f22-4cc9-b479-a793d411fd21")
_CMDLINE = uuid.UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
_INITRD = uuid.UUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
_KERNEL = uuid.UUID("4de79437-abd2-427f-b835-d5b172d2045b")
_TABLE_SIZE = 18 + 3 * _HashEntry.SIZE


def _hash_table(hashes: KernelHashes) -> bytes:
    """QEMU's SevHashTable, padded to 16 bytes; the padding is not counted in its length."""
    entries = [
        _HashEntry.build(guid=guid.bytes_le, length=_HashEntry.SIZE, sha256=sha256).data
        for guid, sha256 in ((_CMDLINE, hashes.cmdline), (_INITRD, hashes.initrd), (_KERNEL, hashes.kernel))
    ]
    table = _TABLE.bytes_le + _TABLE_SIZE.to_bytes(2, "little") + b"".join(entries)
    return table + bytes(-len(table) % 16)


def _bad(message: str, *, hint: str = "") -> FormatError:
    return FormatError(f"OVMF: {message}", record="OVMF", code="format.ovmf", hint=hint)
