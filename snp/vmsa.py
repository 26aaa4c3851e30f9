"""The registers with which a virtual processor starts, as the hypervisor hands them to the firmware: its VMSA page.

Pure. Layout: AMD64 APM volume 2, table B-4 (state save area of SEV-ES guests). Values: the x86 reset state as KVM and
the named virtual machine monitors set it up; they were found by comparing with measured launches, and are no promise
of those projects.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.core.errors import UsageError
from agent.core.wire import Record, raw, uint

PAGE = 4096
RESET_VECTOR = 0xFFFF_FFF0
"""Where the boot processor starts."""
SNP_ACTIVE = 0x1
"""SEV_FEATURES bit 0; the others are optional (APM volume 2, table B-4)."""


class Vmm(StrEnum):
    """Who starts the guest: some initial values differ."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


def signature(family: int, model: int, stepping: int) -> int:
    """CPUID Fn0000_0001 EAX of a processor (AMD 25481): 32 bits. Raises UsageError for numbers that do not fit."""
    if not (0 <= family <= 0xF + 0xFF and 0 <= model <= 0xFF and 0 <= stepping <= 0xF):
        raise UsageError(f"no processor has family {family}, model {model}, stepping {stepping}", code="usage.vcpu")
    base, extended = min(family, 0xF), max(family - 0xF, 0)
    return extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xF) << 4 | stepping


_MODELS = {
    "EPYC": (23, 1, 2, ("IBPB", "v1", "v2", "v3", "v4", "v5")),
    "EPYC-Rome": (23, 49, 0, ("v1", "v2", "v3", "v4", "v5")),
    "EPYC-Milan": (25, 1, 1, ("v1", "v2", "v3")),
    "EPYC-Genoa": (25, 17, 0, ("v1", "v2")),
    "EPYC-Turin": (26, 0, 0, ("v1",)),
}
"""QEMU's processor models (target/i386/cpu.c): family, model, stepping; versions differ in other things."""
SIGNATURES = {
    name: signature(family, model, stepping)
    for base, (family, model, stepping, versions) in _MODELS.items()
    for name in (base, *(f"{base}-{version}" for version in versions))
}


class _Segment(Record, size=16, title="VMSA segment"):
    selector = uint(0, 16)
    attrib = uint(2, 16)
    limit = uint(4, 32)
    base = uint(8, 64)


class SaveArea(Record, size=PAGE, title="VMSA"):
    """The fields that are not zero at the start."""

    es = raw(0x00, 16)
    cs = raw(0x10, 16)
    ss = raw(0x20, 16)
    ds = raw(0x30, 16)
    fs = raw(0x40, 16)
    gs = raw(0x50, 16)
    gdtr = raw(0x60, 16)
    ldtr = raw(0x70, 16)
    idtr = raw(0x80, 16)
    tr = raw(0x90, 16)
    efer = uint(0xD0, 64)
    cr4 = uint(0x148, 64)
    cr0 = uint(0x158, 64)
    dr7 = uint(0x160, 64)
    dr6 = uint(0x168, 64)
    rflags = uint(0x170, 64)
    rip = uint(0x178, 64)
    g_pat = uint(0x268, 64)
    rdx = uint(0x310, 64)
    sev_features = uint(0x3B0, 64)
    xcr0 = uint(0x3E8, 64)
    mxcsr = uint(0x408, 32)
    x87_fcw = uint(0x410, 16)


@dataclass(frozen=True, slots=True)
class _Start:
    """What monitors set differently. ``rdx`` None: the processor's signature."""

    cs: int
    boot_cs: int
    ss: int
    tr: int
    g_pat: int
    rdx: int | None
    mxcsr: int
    fcw: int


_PAT = 0x0007_0406_0007_0406
"""The PAT register after reset (APM volume 2, section A.3)."""
_START = {
    Vmm.QEMU: _Start(0x9B, 0x9B, 0x93, 0x8B, _PAT, None, 0x1F80, 0x37F),
    Vmm.EC2: _Start(0x9B, 0x9A, 0x92, 0x83, _PAT, 0x600, 0, 0),
    Vmm.GCE: _Start(0x9B, 0x9B, 0x93, 0x8B, 0x7_0106, 0x600, 0, 0),
}


def page(eip: int, *, cpu: int, features: int = SNP_ACTIVE, vmm: Vmm = Vmm.QEMU) -> bytes:
    """The 4096 bytes for a processor that starts at ``eip`` (32 bits). ``cpu`` is its signature."""
    start = _START[vmm]
    data = _segment(0, 0x93)
    return SaveArea.build(
        es=data,
        cs=_segment(0xF000, start.boot_cs if eip == RESET_VECTOR else start.cs, base=eip & 0xFFFF_0000),
        ss=_segment(0, start.ss),
        ds=data,
        fs=data,
        gs=data,
        gdtr=_segment(0, 0),
        ldtr=_segment(0, 0x82),
        idtr=_segment(0, 0),
        tr=_segment(0, start.tr),
        efer=0x1000,  # SVME: KVM sets it
        cr4=0x40,  # MCE: KVM sets it
        cr0=0x10,
        dr7=0x400,
        dr6=0xFFFF_0FF0,
        rflags=0x2,
        rip=eip & 0xFFFF,
        g_pat=start.g_pat,
        rdx=cpu if start.rdx is None else start.rdx,
        sev_features=features,
        xcr0=0x1,
        mxcsr=start.mxcsr,
        x87_fcw=start.fcw,
    ).data


def _segment(selector: int, attrib: int, *, base: int = 0) -> bytes:
    return _Segment.build(selector=selector, attrib=attrib, limit=0xFFFF, base=base).data
