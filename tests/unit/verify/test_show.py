"""The table of `evidence show`: every field once, every bit by name, nothing verified."""

from __future__ import annotations

import pytest

from agent.core.model import Tee
from agent.verify.evidence import parse_fields
from agent.verify.show import evidence_table
from snp import abi as snp_abi
from snp.words import PLATFORM_BITS, POLICY_BITS, policy_word
from tdx import abi
from tests.unit.tdx.world import World

LEFT_OUT = {
    # Shown in the head line, as bits by name, or of no use to a reader.
    Tee.SNP: {"version", "signature_algo", "policy_bits", "key_flags_raw", "author_key_en", "mask_chip_key", "cpuid"}
    | {"current_version", "committed_version"},
    Tee.TDX: {"header", "body_type", "body_size", "signature_data_len", "qe", "certification_data", "td_debug"},
}


def table(blob: bytes) -> list[str]:
    return list(evidence_table(*parse_fields(blob)))


def report(version: int = 5, **fields: int | bytes) -> bytes:
    return snp_abi.VERSIONS[version].build(**fields).data


def bit(lines: list[str], name: str) -> str:
    (line,) = [line for line in lines if line.split()[0] == name]
    return line.split()[1]


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_every_field_of_a_report(version: int) -> None:
    blob = report(version, policy=policy_word())
    lines = table(blob)
    assert lines[0] == f"evidence: amd-sev-snp, version {version}, NOT VERIFIED"
    shown = {line.split()[0] for line in lines}
    assert parse_fields(blob)[2].keys() - shown <= LEFT_OUT[Tee.SNP]
    assert any("does not name its product" in line for line in lines) == (version == 2)


@pytest.mark.parametrize("name", [*POLICY_BITS, *PLATFORM_BITS])
def test_each_bit_of_a_report(name: str) -> None:
    policy = policy_word(abi_major=1, abi_minor=55, **({name: True} if name in POLICY_BITS else {}))
    platform = 1 << PLATFORM_BITS[name] if name in PLATFORM_BITS else 0
    lines = table(report(policy=policy, platform_info=platform))
    assert f"policy 0x{policy:016x}: made for firmware ABI 1.55 or newer" in lines
    set_bits = {line.split()[0] for line in lines if line.split()[1:2] == ["yes"]}
    assert set_bits == {name, "reserved_must_be_one"}
    assert not any("unknown_bits" in line for line in lines)


def test_bits_without_a_name_are_not_lost() -> None:
    lines = table(report(policy=1 << 40, platform_info=1 << 41))
    assert [line.split()[1] for line in lines if "unknown_bits" in line] == ["0x10000000000", "0x20000000000"]


def test_security_versions_by_part() -> None:
    turin = report(3, cpuid_family=0x1A, cpuid_model=2, current_tcb=0x4700000002000100, launch_tcb=1)
    lines = table(turin)
    head = next(line for line in lines if line.startswith("security versions"))
    assert head.split()[2:] == ["fmc", "bootloader", "tee", "snp", "microcode"]
    row = next(line for line in lines if line.split()[0] == "current_tcb")
    assert row.split()[1:] == ["0", "1", "0", "2", "71", "0x4700000002000100"]
    assert row.index("71") + 2 == head.index("microcode") + len("microcode")


def test_who_signed_and_masked_chips() -> None:
    lines = table(report(key_info=snp_abi.key_info("VLEK", mask_chip_key=True)))
    assert bit(lines, "signing_key") == "VLEK"
    assert "  chip_id                     masked by the host" in lines


@pytest.mark.parametrize("version", [4, 5])
def test_every_field_of_a_quote(version: int) -> None:
    world = World()
    world.header = {"version": version}
    if version == 4:
        world.kind = abi.Body
    blob = world.quote()
    lines = table(blob)
    assert lines[0] == f"evidence: intel-tdx, version {version}, NOT VERIFIED"
    fields = parse_fields(blob)[2]
    shown = {line.split()[0] for line in lines}
    assert (fields.keys() | fields["qe"].keys()) - shown <= LEFT_OUT[Tee.TDX]


@pytest.mark.parametrize(
    ("at", "name"), [(0, "DEBUG"), (28, "SEPT_VE_DISABLE"), (29, "MIGRATABLE"), (63, "PERFMON"), (5, "unknown_bits")]
)
def test_td_attributes(at: int, name: str) -> None:
    _, version, fields = parse_fields(World().quote())
    changed = {**fields, "td_attributes": (1 << at).to_bytes(8, "little").hex()}
    lines = list(evidence_table(Tee.TDX, version, changed))
    marked = {line.split()[0] for line in lines if line.split()[1:2] in (["yes"], ["0x20"])}
    assert marked == {name}


def test_processor_state_and_module_versions() -> None:
    _, version, fields = parse_fields(World().quote())
    changed = {**fields, "xfam": "e702060000000040", "tee_tcb_svn": "0b0104" + "00" * 13}
    text = "\n".join(evidence_table(Tee.TDX, version, changed))
    assert "x87, SSE, AVX, AVX-512, PKRU, AMX, unknown bits 0x4000000000000000" in text
    assert "module 1.11, SEAM loader 4" in text
