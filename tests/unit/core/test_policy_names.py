"""Every name that docs/policy.md promises: a rule over it accepts the value that is there and refuses another."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.policies import SNP, TDX, decide

DOCS = Path(__file__).resolve().parents[3] / "docs" / "policy.md"

GUEST_POLICY = {
    "smt_allowed": 16,
    "migrate_ma_allowed": 18,
    "debug_allowed": 19,
    "single_socket_required": 20,
    "cxl_allowed": 21,
    "mem_aes_256_xts": 22,
    "rapl_dis": 23,
    "ciphertext_hiding": 24,
    "page_swap_disable": 25,
}
PLATFORM_INFO = {
    "smt_enabled": 0,
    "tsme_enabled": 1,
    "ecc_enabled": 2,
    "rapl_disabled": 3,
    "ciphertext_hiding_enabled": 4,
    "alias_check_complete": 5,
    "tio_enabled": 7,
}
TD_ATTRIBUTES = {
    "debug": 0,
    "hgs_plus_prof": 4,
    "perf_prof": 5,
    "pmt_prof": 6,
    "icssd": 16,
    "lass": 27,
    "sept_ve_disable": 28,
    "migratable": 29,
    "pks": 30,
    "kl": 31,
    "tpa": 62,
    "perfmon": 63,
}
XFAM = {
    "fp": 0,
    "sse": 1,
    "avx": 2,
    "mpx_bndregs": 3,
    "mpx_bndcsr": 4,
    "avx512_opmask": 5,
    "avx512_zmm_hi256": 6,
    "avx512_hi16_zmm": 7,
    "pt": 8,
    "pku": 9,
    "pasid": 10,
    "cet_user": 11,
    "cet_supervisor": 12,
    "hdc": 13,
    "uintr": 14,
    "lbr": 15,
    "hwp": 16,
    "amx_tilecfg": 17,
    "amx_tiledata": 18,
    "apx": 19,
}
WORDS = [("policy", name, bit) for name, bit in GUEST_POLICY.items()]
WORDS += [("platform_info", name, bit) for name, bit in PLATFORM_INFO.items()]
OCTETS = [("td_attributes", name, bit) for name, bit in TD_ATTRIBUTES.items()]
OCTETS += [("xfam", name, bit) for name, bit in XFAM.items()]


@pytest.mark.parametrize(("group", "name", "bit"), WORDS)
def test_bits_of_snp_words(group: str, name: str, bit: int) -> None:
    for value in (0, (1 << 64) - 1):
        flipped = value ^ (1 << bit)
        for word, is_set in ((value, bool(value)), (flipped, not value)):
            fields = {**SNP, group: f"0x{word:016x}"}
            assert decide(fields, {group: {name: is_set}})
            assert not decide(fields, {group: {name: {"boolean": not is_set}}})


@pytest.mark.parametrize(("group", "name", "bit"), OCTETS)
@pytest.mark.parametrize("within", ["", "body"])
def test_bits_of_tdx_octets(group: str, name: str, bit: int, within: str) -> None:
    for value in (0, (1 << 64) - 1):
        flipped = value ^ (1 << bit)
        for number, is_set in ((value, bool(value)), (flipped, not value)):
            fields = {**TDX, group: number.to_bytes(8, "little").hex()}
            for said in (True, False):
                rules: dict[str, Any] = {group: {name: said}}
                assert decide(fields, {within: rules} if within else rules, "TDX") is (said is is_set)


VALUES: list[tuple[str, str, Any, Any]] = [
    *[("SEV", name, SNP[name], "ff" * (len(SNP[name]) // 2)) for name in ("host_data", "id_key_digest", "chip_id")],
    *[
        ("SEV", name, SNP[name], "00" * (len(SNP[name]) // 2))
        for name in ("author_key_digest", "family_id", "image_id")
    ],
    ("SEV", "vmpl", 0, 1),
    ("SEV", "guest_svn", 2, 3),
    ("SEV", "version", 3, 2),
    ("SEV", "policy", 0x30000, 0xB0000),
    ("SEV", "platform_info", "0x25", "0x24"),
    ("SEV", "policy.abi_minor", 0, 1),
    ("SEV", "policy.abi_major", 0, 1),
    ("SEV", "key_info.author_key_en", False, True),
    ("SEV", "key_info.mask_chip_key", False, True),
    ("SEV", "key_info.signing_key", 0, 1),
    ("SEV", "cpuid.family_id", 25, 26),
    ("SEV", "cpuid.model_id", 17, 1),
    ("SEV", "current_version", "1.55.43", "1.55.42"),
    ("SEV", "current_version.major", 1, 2),
    ("SEV", "committed_version.minor", 55, 54),
    ("SEV", "committed_version.build", 40, 43),
    ("SEV", "launch_mit_vector", 1, 3),
    *[
        ("SEV", f"{tcb}_tcb.{part}", SNP["current_tcb"][part], SNP["current_tcb"][part] + 1)
        for tcb in ("current", "reported", "committed", "launch")
        for part in ("bootloader", "tee", "snp", "microcode")
    ],
    *[
        ("TDX", prefix + name, TDX[name], "77" * (len(TDX[name]) // 2))
        for prefix in ("", "body.")
        for name in (
            *("tee_tcb_svn", "mr_seam", "mr_signer_seam", "seam_attributes", "td_attributes", "xfam"),
            *("mr_config_id", "mr_owner", "mr_owner_config", "rtmr3"),
            *("tee_tcb_svn_2", "mr_service_td"),
        )
    ],
    ("TDX", "header.version", 5, 4),
    ("TDX", "fmspc", "90c06f000000", "000000000000"),
    ("TDX", "td_debug", False, True),
    ("TDX", "signature_data.qe_cert_data.qe_report.isv_svn", 8, 7),
    ("TDX", "signature_data.qe_cert_data.qe_report.mr_signer", "0D" * 32, "0e" * 32),
]


def rules_at(path: str, rule: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        rule = {name: rule}
    made: dict[str, Any] = rule
    return made


@pytest.mark.parametrize(("kind", "path", "right", "wrong"), VALUES)
def test_values_by_name(kind: str, path: str, right: Any, wrong: Any) -> None:
    fields = SNP if kind == "SEV" else TDX
    for rule, verdict in (
        ({"exact_match": right}, True),
        ({"exact_match": wrong}, False),
        ({"allow_list": [wrong, right]}, True),
        ({"allow_list": [wrong]}, False),
        ({"deny_list": [wrong]}, True),
        ({"deny_list": [wrong, right]}, False),
    ):
        assert decide(fields, rules_at(path, rule), kind) is verdict, rule


@pytest.mark.parametrize(("kind", "path", "right", "wrong"), VALUES)
def test_without_the_field_every_rule_fails(kind: str, path: str, right: Any, wrong: Any) -> None:
    fields = copy.deepcopy(SNP if kind == "SEV" else TDX)
    top = path.removeprefix("body.").split(".")[0]
    del fields["qe" if top == "signature_data" else "key_flags_raw" if top == "key_info" else top]
    for rule in ({"exact_match": right}, {"deny_list": [wrong]}):
        assert not decide(fields, rules_at(path, rule), kind)


@pytest.mark.parametrize("kind", ["current", "reported", "committed", "launch"])
def test_least_tcb_of_each_part(kind: str) -> None:
    for part, value in {"bootloader": 10, "snp": 25, "microcode": 84}.items():
        assert decide(SNP, {f"{kind}_tcb": {part: {"min_value": value}}})
        assert not decide(SNP, {f"{kind}_tcb": {part: {"min_value": value + 1}}})
    assert not decide(SNP, {f"{kind}_tcb": {"fmc": {"min_value": 0}}})  # this product has none


def test_the_manual_has_them_all() -> None:
    text = DOCS.read_text()
    words = set(re.findall(r"[a-z0-9_]+", text))
    names = {name for table in (GUEST_POLICY, PLATFORM_INFO, TD_ATTRIBUTES, XFAM) for name in table}
    names |= {name for _, path, _, _ in VALUES for name in path.split(".") if path.count(".") or "_" in name}
    assert sorted(names - words) == []
