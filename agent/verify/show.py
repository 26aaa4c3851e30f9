"""Evidence as a table for people: grouped, bits and security versions by name. Nothing in it is verified.

Sources of the names: AMD 56860 (guest policy, PLATFORM_INFO, TCB_VERSION); Intel TDX Module Base Architecture
Specification (ATTRIBUTES, XFAM, TEE_TCB_SVN).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.core.canonical import printable
from agent.core.model import Tee
from snp.abi import SIGNING_KEYS
from snp.words import PLATFORM_BITS, POLICY_BITS

Fields = Mapping[str, Any]

_POLICY = {
    "smt": "the host may have simultaneous multi-threading on",
    "reserved_must_be_one": "always one",
    "migrate_ma": "a migration agent may be associated",
    "debug": "the host may debug the guest: nothing in it is confidential",
    "single_socket": "the guest runs on one socket only",
    "cxl_allow": "CXL devices and memory are allowed",
    "mem_aes_256_xts": "memory must be encrypted with AES-256-XTS",
    "rapl_dis": "power readings (RAPL) must be off",
    "ciphertext_hiding_dram": "ciphertext in DRAM must be hidden from the host",
    "page_swap_disable": "the host must not move or swap the guest's pages",
}
_PLATFORM = {
    "smt_en": "simultaneous multi-threading is on",
    "tsme_en": "all memory is encrypted (TSME)",
    "ecc_en": "memory has error correction",
    "rapl_dis": "power readings (RAPL) are off",
    "ciphertext_hiding_dram_en": "ciphertext in DRAM is hidden from the host",
    "alias_check_complete": "no memory aliases were found since the last reset (BadRAM)",
    "iommu_write_safe": "the IOMMU's writes are checked",
    "tio_en": "trusted I/O is on",
}
_ATTRIBUTES = {
    "DEBUG": (0, "the host may debug the guest: nothing in it is confidential"),
    "LASS": (27, "linear address space separation"),
    "SEPT_VE_DISABLE": (28, "the host can't inject #VE by removing pages"),
    "MIGRATABLE": (29, "the guest may be migrated"),
    "PKS": (30, "supervisor protection keys"),
    "KL": (31, "key locker"),
    "TPA": (62, "TDX Connect provisioning agent"),
    "PERFMON": (63, "the guest has performance counters"),
}
_XFAM = {0: "x87", 1: "SSE", 2: "AVX", 5: "AVX-512", 6: "AVX-512", 7: "AVX-512", 8: "PT", 9: "PKRU", 11: "CET-U"}
_XFAM |= {12: "CET-S", 14: "UINTR", 15: "LBR", 17: "AMX", 18: "AMX"}
_TCBS = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
_WIDTH = 28


def evidence_table(tee: Tee, version: int, fields: Fields) -> Iterator[str]:
    """``fields`` as agent.verify.evidence.parse_fields gives them, in lines."""
    yield f"evidence: {tee}, version {version}, NOT VERIFIED"
    yield from _snp(fields) if tee is Tee.SNP else _tdx(fields)


def _snp(fields: Fields) -> Iterator[str]:
    guest = ("measurement", "report_data", "host_data", "vmpl", "guest_svn", "family_id", "image_id", "id_key_digest")
    yield from _group("guest", fields, *guest, "author_key_digest", "report_id", "report_id_ma")
    policy = int(fields["policy"], 16)
    yield f"policy {fields['policy']}: made for firmware ABI {policy >> 8 & 0xFF}.{policy & 0xFF} or newer"
    yield from _bits(policy >> 16 << 16, {name: (POLICY_BITS[name], text) for name, text in _POLICY.items()})
    yield f"platform_info {fields['platform_info']}"
    named = {name: (PLATFORM_BITS[name], text) for name, text in _PLATFORM.items()}
    yield from _bits(int(fields["platform_info"], 16), named)
    yield from _tcb_table(fields)
    yield "platform"
    yield _line("signing_key", SIGNING_KEYS.get(fields["signing_key"], "an undefined key"))
    yield _line("chip_id", "masked by the host" if fields["mask_chip_key"] else fields["chip_id"])
    if fields["cpuid"]:
        yield _line(
            "processor", "family 0x{family:x}, model 0x{model:x}, stepping {stepping}".format(**fields["cpuid"])
        )
    yield _line("firmware", f"{fields['current_version']}, committed {fields['committed_version']}")
    yield from (_line(name, fields[name]) for name in ("launch_mit_vector", "current_mit_vector") if name in fields)


def _tcb_table(fields: Fields) -> Iterator[str]:
    parts = [name for name in fields["current_tcb"] if name != "raw"]
    yield "security versions" + " " * (_WIDTH - 15) + "".join(f"{part:>12}" for part in parts)
    for name in _TCBS:
        numbers = "".join(f"{fields[name][part]:>12}" for part in parts)
        yield f"{_line(name, '')}{numbers}  {fields[name]['raw']}"
    if "cpuid" in fields and fields["cpuid"] is None:
        yield "  (version 2 does not name its product: parts as on Milan and Genoa)"


def _tdx(fields: Fields) -> Iterator[str]:
    guest = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "report_data", "mr_config_id", "mr_owner", "mr_owner_config")
    yield from _group("guest", fields, *guest, "mr_service_td")
    yield f"td_attributes {fields['td_attributes']}"
    yield from _bits(int.from_bytes(bytes.fromhex(fields["td_attributes"]), "little"), _ATTRIBUTES)
    yield "TDX module"
    yield from (_line(name, fields[name]) for name in ("mr_seam", "mr_signer_seam", "seam_attributes"))
    for name in ("tee_tcb_svn", "tee_tcb_svn_2"):
        if name in fields:
            yield _line(name, f"{fields[name]}: {_svn(bytes.fromhex(fields[name]))}")
    yield "processor state"
    yield _line("xfam", f"{fields['xfam']}: {_xfam(int.from_bytes(bytes.fromhex(fields['xfam']), 'little'))}")
    yield from _group("quoting enclave", fields["qe"], *fields["qe"])
    header = fields["header"]
    yield from _group("quote", {**header, **fields}, "att_key_type", "qe_vendor_id", "quote_len", "trailing_bytes")


def _svn(svn: bytes) -> str:
    return f"module {svn[1]}.{svn[0]}, SEAM loader {svn[2]}"


def _xfam(word: int) -> str:
    known = list(dict.fromkeys(name for bit, name in _XFAM.items() if word >> bit & 1))
    rest = word & ~sum(1 << bit for bit in _XFAM)
    return ", ".join([*known, f"unknown bits 0x{rest:x}"] if rest else known)


def _group(title: str, fields: Fields, *names: str) -> Iterator[str]:
    yield title
    yield from (_line(name, fields[name]) for name in names if name in fields)


def _bits(word: int, named: Mapping[str, tuple[int, str]]) -> Iterator[str]:
    """Every named bit, set or not, and what is left over."""
    for name, (bit, meaning) in named.items():
        yield _line(name, f"{'yes' if word >> bit & 1 else 'no':<3}  ({meaning})")
    if rest := word & ~sum(1 << bit for bit, _ in named.values()):
        yield _line("unknown_bits", f"0x{rest:x}")


def _line(name: str, value: Any) -> str:
    text = printable(str(value))
    return f"  {name:<{_WIDTH}}{text}"
