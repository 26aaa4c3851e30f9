"""Predicted launch digests against an independent judge (the sev-snp-measure package), over many launches."""

from __future__ import annotations

import hashlib
import struct
from itertools import product
from pathlib import Path

import pytest
from sevsnpmeasure import guest, vcpu_types
from sevsnpmeasure import vmsa as judged_vmsa
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType

from agent.core.errors import FormatError, TeeAgentError, UsageError
from snp import launch, ovmf, vmsa
from snp.launch import KernelHashes, Launch
from snp.vmsa import Vmm
from tests.unit.snp import firmware

JUDGES_VMM = {Vmm.QEMU: VMMType.QEMU, Vmm.EC2: VMMType.ec2, Vmm.GCE: VMMType.gce}
DEBIAN_OVMF = tuple(Path("/usr/share", name) for name in ("ovmf/OVMF.amdsev.fd", "ovmf/OVMF.fd", "OVMF/OVMF_CODE.fd"))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def judged(
    folder: Path, image: bytes, how: Launch, boot: tuple[bytes, bytes, str] | None = None, *, initrd: bool = True
) -> bytes:
    """What the judge says of the same launch."""
    files = {"ovmf": image, **({"kernel": boot[0], "initrd": boot[1]} if boot else {})}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    digest: bytes = guest.calc_launch_digest(
        SevMode.SEV_SNP,
        how.vcpus,
        how.cpu,
        str(folder / "ovmf"),
        str(folder / "kernel") if boot else "",
        str(folder / "initrd") if boot and initrd else "",
        boot[2] if boot else "",
        how.features,
        vmm_type=JUDGES_VMM[how.vmm],
    )
    return digest


def ours(image: bytes, how: Launch, boot: tuple[bytes, bytes, str] | None = None) -> bytes:
    hashes = KernelHashes.of(sha256(boot[0]), sha256(boot[1]), boot[2]) if boot else None
    return launch.measurement(ovmf.parse(image), how, hashes)


@pytest.mark.parametrize("name", sorted(vcpu_types.CPU_SIGS))
def test_every_processor_type_the_judge_knows(name: str, tmp_path: Path) -> None:
    assert vmsa.SIGNATURES[name] == vcpu_types.CPU_SIGS[name]
    how, image = Launch(2, vmsa.SIGNATURES[name]), firmware.image()
    assert ours(image, how) == judged(tmp_path, image, how)


@pytest.mark.parametrize(
    ("vcpus", "features", "vmm"), list(product((1, 2, 4, 65), (0x1, 0x21, 0x5), tuple(Vmm))), ids=str
)
def test_launches_with_and_without_kernel_hashes(vcpus: int, features: int, vmm: Vmm, tmp_path: Path) -> None:
    how, image = Launch(vcpus, vmsa.SIGNATURES["EPYC-v4"], features, vmm), firmware.image()
    assert ours(image, how) == judged(tmp_path, image, how)
    boot = (b"kernel" * 999, b"initrd" * 777, "console=ttyS0 root=/dev/vda1 ro")
    assert ours(image, how, boot) == judged(tmp_path, image, how, boot)


@pytest.mark.parametrize("cmdline", ["", " ", "quiet", "root=UUID=1 \u00e4", "x" * 4000])
@pytest.mark.parametrize("initrd", [b"", b"an initrd"])
def test_empty_and_odd_boots(cmdline: str, initrd: bytes, tmp_path: Path) -> None:
    how, image = Launch(1, vmsa.SIGNATURES["EPYC-Genoa"]), firmware.image()
    boot = (b"vmlinuz", initrd, cmdline)
    expected = judged(tmp_path, image, how, boot, initrd=bool(initrd))
    assert ours(image, how, boot) == expected


@pytest.mark.parametrize("hashes", [0x10000, 0x10C00, 0x10F40])
@pytest.mark.parametrize("size", [0x2000, 0x20000, 0x400000])
def test_other_firmware(hashes: int, size: int, tmp_path: Path) -> None:
    image, how = firmware.image(size=size, hashes=hashes, fill=13), Launch(2, vmsa.SIGNATURES["EPYC-Milan"])
    boot = (b"k", b"i", "c")
    assert ours(image, how, boot) == judged(tmp_path, image, how, boot)


def test_any_part_changes_the_digest() -> None:
    how, boot = Launch(2, vmsa.SIGNATURES["EPYC-v4"]), (b"kernel", b"initrd", "quiet")
    image = firmware.image()
    seen = {
        ours(image, how, boot),
        ours(firmware.image(fill=9), how, boot),
        ours(image, Launch(3, how.cpu), boot),
        ours(image, Launch(2, how.cpu + 1), boot),
        ours(image, Launch(2, how.cpu, 0x21), boot),
        ours(image, how, (b"kernel2", b"initrd", "quiet")),
        ours(image, how, (b"kernel", b"initrd2", "quiet")),
        ours(image, how, (b"kernel", b"initrd", "quiet ")),
        ours(image, how),
    }
    assert len(seen) == 9


@pytest.mark.parametrize("vmm", list(Vmm), ids=str)
@pytest.mark.parametrize("eip", [vmsa.RESET_VECTOR, 0x80B004, 0])
def test_first_states_byte_for_byte(vmm: Vmm, eip: int) -> None:
    expected = judged_vmsa.VMSA.build_save_area(eip, 0x1, 0x800F12, JUDGES_VMM[vmm])
    assert vmsa.page(eip, cpu=0x800F12, vmm=vmm) == bytes(expected)


@pytest.mark.parametrize(("family", "model", "stepping"), [(23, 1, 2), (6, 15, 0), (15, 255, 15), (26, 17, 1)])
def test_signatures(family: int, model: int, stepping: int) -> None:
    assert vmsa.signature(family, model, stepping) == vcpu_types.cpu_sig(family, model, stepping)


def test_debian_s_firmware_where_it_is_installed(tmp_path: Path) -> None:
    found = [path for path in DEBIAN_OVMF if path.exists()]
    if not found:
        pytest.skip("the package ovmf is not installed")
    how, boot = Launch(4, vmsa.SIGNATURES["EPYC-v4"]), (b"kernel", b"initrd", "quiet")
    for path in found:
        image = path.read_bytes()
        assert ours(image, how) == judged(tmp_path, image, how)
        if ovmf.parse(image).has(ovmf.Kind.KERNEL_HASHES):
            assert ours(image, how, boot) == judged(tmp_path, image, how, boot)


@pytest.mark.parametrize("vcpus", [0, -1, launch.MAX_VCPUS + 1])
def test_impossible_numbers_of_processors(vcpus: int) -> None:
    with pytest.raises(UsageError):
        Launch(vcpus, 1)


def test_impossible_processors() -> None:
    for cpu, features in ((1 << 32, 1), (-1, 1), (1, 1 << 64), (1, -1)):
        with pytest.raises(UsageError):
            Launch(1, cpu, features)
    for numbers in ((300, 0, 0), (25, 256, 0), (25, 1, 16), (-1, 0, 0)):
        with pytest.raises(UsageError):
            vmsa.signature(*numbers)


@pytest.mark.parametrize("cmdline", ["a\0b", "x" * (launch.MAX_COMMAND_LINE + 1)])
def test_impossible_command_lines(cmdline: str) -> None:
    with pytest.raises(UsageError):
        KernelHashes.of(bytes(32), bytes(32), cmdline)


def without(kind: int) -> tuple[tuple[int, int, int], ...]:
    return tuple(section for section in firmware.SECTIONS if section[2] != kind)


@pytest.mark.parametrize(
    "image",
    [
        firmware.image(sections=without(0x10)),
        firmware.image(hashes=0),
        firmware.image(hashes=0x10FF0),  # would leave its page
        firmware.image(hashes=0x20C00),  # elsewhere than the section
        firmware.image(sections=(*without(0x10), (0x10000, 0x2000, 0x10))),
        firmware.image(reset=0),
    ],
)
def test_a_firmware_that_can_not_do_what_is_asked(image: bytes) -> None:
    with pytest.raises(FormatError):
        ours(image, Launch(2, 1), (b"k", b"i", "c"))


def bad_images() -> dict[str, bytes]:
    good = firmware.image()
    metadata = struct.pack("<4sIII", b"ASEV", 28, 1, 1) + struct.pack("<III", 0x1000, 0x1000, 1)
    at = firmware.entry(firmware.SEV_METADATA, struct.pack("<I", 0x1000))
    return {
        "empty": b"",
        "odd": good[1:],
        "no footer": bytes(0x2000),
        "footer too large": good[:-50] + struct.pack("<H", 0xFFFF) + good[-48:],
        "footer too small": good[:-50] + struct.pack("<H", 17) + good[-48:],
        "entry of no size": firmware.assemble(metadata, at + bytes(18)),
        "entry too large": firmware.assemble(metadata, at + firmware.entry(firmware.FOOTER, b"")[:0] + b"\xff\xff" * 9),
        "too many entries": firmware.assemble(metadata, at + firmware.entry(firmware.FOOTER, b"") * 65),
        "no metadata": firmware.assemble(metadata, firmware.entry(firmware.RESET_BLOCK, bytes(4))),
        "metadata elsewhere": firmware.assemble(metadata, firmware.entry(firmware.SEV_METADATA, b"\xff\xff\xff\xff")),
        "metadata at the end": firmware.assemble(metadata, firmware.entry(firmware.SEV_METADATA, bytes(4))),
        "short entry": firmware.assemble(metadata, firmware.entry(firmware.SEV_METADATA, b"\0\x10")),
        "signature": firmware.assemble(b"VESA" + metadata[4:], at),
        "version": firmware.assemble(metadata[:8] + b"\x02" + metadata[9:], at),
        "count": firmware.assemble(metadata[:12] + b"\xff\xff\xff\xff" + metadata[16:], at),
        "kind": firmware.image(sections=[(0x1000, 0x1000, 5)]),
        "not a page": firmware.image(sections=[(0x1001, 0x1000, 1)]),
        "no size": firmware.image(sections=[(0x1000, 0, 1)]),
        "above 4 GiB": firmware.image(sections=[(0xFFFFF000, 0x2000, 1)]),
        "too much memory": firmware.image(sections=[(0, ovmf.MAX_SECTION_BYTES + 0x1000, 1)]),
    }


@pytest.mark.parametrize("name", bad_images())
def test_broken_firmware_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        ovmf.parse(bad_images()[name])


def test_too_large_firmware_is_refused_unread() -> None:
    with pytest.raises(FormatError) as caught:
        ovmf.parse(bytes(ovmf.MAX_BYTES + 0x1000))
    assert caught.value.code == "format.oversized"


def test_each_flipped_bit_of_table_and_metadata_is_refused_or_well_formed() -> None:
    good = firmware.image(size=0x2000)
    for offset in [*range(0x1000, 0x1000 + 16 + 12 * len(firmware.SECTIONS)), *range(0x2000 - 140, 0x2000)]:
        for bit in range(8):
            bent = bytearray(good)
            bent[offset] ^= 1 << bit
            try:
                found = ovmf.parse(bytes(bent))
            except TeeAgentError:
                continue
            assert sum(section.size for section in found.sections) <= ovmf.MAX_SECTION_BYTES
