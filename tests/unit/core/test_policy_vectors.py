"""Policies over the fields of genuine evidence. What to expect is computed from meta.json alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import PolicyViolation, TeeAgentError
from agent.core.policy import FLOOR_NAMES, Floor, Policy, evaluate
from agent.core.tcbrule import TCB_ORDER
from agent.verify.evidence import appraise, verify_vendor
from tests.support import vectors
from tests.support.policies import REGISTERS
from tests.unit.verify.test_evidence import load

Expected = dict[str, Any]


def decide(fields: dict[str, Any], rules: dict[str, Any], kind: str) -> bool:
    names = ("measurement",) if kind == "SEV" else REGISTERS
    own = {name: {"exact_match": fields[name]} for name in names}
    metadata = {"policy_type": kind, "policy_id": "web", "key_id": "disk"}
    policy = Policy.parse({"metadata": metadata, "validation_rules": {**own, **rules}})
    return all(check.ok for check in evaluate(policy, fields))


def bit(text: str, number: int) -> bool:
    return bool(int(text, 16) >> number & 1)


def octet_bit(text: str, number: int) -> bool:
    return bool(int.from_bytes(bytes.fromhex(text), "little") >> number & 1)


SNP_SAMPLES: list[tuple[str, dict[str, Any], Callable[[Expected], bool]]] = [
    ("upstream: debug off", {"policy": {"debug_allowed": {"boolean": False}}}, lambda e: not e["policy_bits"]["debug"]),
    ("upstream: debug off, short", {"policy": {"debug_allowed": False}}, lambda e: not e["policy_bits"]["debug"]),
    ("upstream: vmpl", {"vmpl": {"exact_match": 0}}, lambda e: e["vmpl"] == 0),
    ("upstream: version range", {"version": {"min_value": 2, "max_value": 3}}, lambda e: e["version"] in (2, 3)),
    ("smt", {"policy": {"smt_allowed": True}}, lambda e: e["policy_bits"]["smt"]),
    ("migration", {"policy": {"migrate_ma_allowed": True}}, lambda e: e["policy_bits"]["migrate_ma"]),
    ("single socket", {"policy": {"single_socket_required": True}}, lambda e: e["policy_bits"]["single_socket"]),
    ("BadRAM", {"platform_info": {"alias_check_complete": True}}, lambda e: bit(e["platform_info"], 5)),
    ("hiding", {"platform_info": {"ciphertext_hiding_enabled": True}}, lambda e: bit(e["platform_info"], 4)),
    ("ecc", {"platform_info": {"ecc_enabled": {"boolean": True}}}, lambda e: bit(e["platform_info"], 2)),
    ("snp 20", {"reported_tcb": {"snp": {"min_value": 20}}}, lambda e: e["reported_tcb"]["snp"] >= 20),
    ("microcode", {"launch_tcb": {"microcode": {"min_value": 84}}}, lambda e: e["launch_tcb"]["microcode"] >= 84),
    ("turin", {"reported_tcb": {"fmc": {"min_value": 0}}}, lambda e: "fmc" in e["reported_tcb"]),
    ("vlek", {"key_info": {"signing_key": 1}}, lambda e: e["signing_key"] == 1),
    ("genoa", {"cpuid": {"family_id": 25, "model_id": {"min_value": 16}}}, lambda e: _genoa(e["cpuid"])),
    ("host data", {"host_data": {"deny_list": ["00" * 32]}}, lambda e: any(bytes.fromhex(e["host_data"]))),
    ("mitigations", {"launch_mit_vector": {"min_value": 1}}, lambda e: int(e.get("launch_mit_vector", "0x0"), 16) > 0),
]


def _genoa(cpuid: dict[str, int] | None) -> bool:
    return cpuid is not None and cpuid["family"] == 25 and cpuid["model"] >= 16


TDX_SAMPLES: list[tuple[str, dict[str, Any], Callable[[Expected], bool]]] = [
    ("upstream: version", {"header": {"version": {"exact_match": 4}}}, lambda e: e["header"]["version"] == 4),
    ("upstream: xfam", {"body": {"xfam": {"exact_match": "e718060000000000"}}}, lambda e: e["xfam"][:6] == "e71806"),
    ("debug", {"td_attributes": {"debug": False}}, lambda e: not octet_bit(e["td_attributes"], 0)),
    ("sept ve", {"body": {"td_attributes": {"sept_ve_disable": True}}}, lambda e: octet_bit(e["td_attributes"], 28)),
    ("migratable", {"td_attributes": {"migratable": True}}, lambda e: octet_bit(e["td_attributes"], 29)),
    ("amx", {"xfam": {"amx_tiledata": True}}, lambda e: octet_bit(e["xfam"], 18)),
    ("no service TD", {"mr_service_td": {"exact_match": "00" * 48}}, lambda e: e.get("mr_service_td") == "00" * 48),
    ("intel's module", {"mr_signer_seam": {"exact_match": "00" * 48}}, lambda e: not int(e["mr_signer_seam"], 16)),
    ("rtmr3 unused", {"rtmr3": {"exact_match": "00" * 48}}, lambda e: not int(e["rtmr3"], 16)),
    ("isv svn", {"qe": {"isvsvn": {"min_value": 5}}}, lambda e: e["qe"]["isvsvn"] >= 5),
]


@pytest.mark.parametrize("folder", vectors.cases("snp"))
@pytest.mark.parametrize(("rules", "expect"), [case[1:] for case in SNP_SAMPLES], ids=[case[0] for case in SNP_SAMPLES])
def test_samples_over_reports(folder: Path, rules: dict[str, Any], expect: Callable[[Expected], bool]) -> None:
    if fields := vectors.meta(folder).get("expected"):
        assert decide(fields, rules, "SEV") is expect(fields)


@pytest.mark.parametrize("folder", vectors.cases("tdx"))
@pytest.mark.parametrize(("rules", "expect"), [case[1:] for case in TDX_SAMPLES], ids=[case[0] for case in TDX_SAMPLES])
def test_samples_over_quotes(folder: Path, rules: dict[str, Any], expect: Callable[[Expected], bool]) -> None:
    if fields := vectors.meta(folder).get("expected"):
        assert decide(fields, rules, "TDX") is expect(fields)


@pytest.mark.parametrize("folder", vectors.cases("snp"))
def test_genuine_reports_by_their_own_measurement(folder: Path) -> None:
    fields = vectors.meta(folder).get("expected")
    if not fields:
        return
    assert decide(fields, {"measurement": {"allow_list": [fields["measurement"].upper()]}}, "SEV")
    assert not decide(fields, {"measurement": {"exact_match": "5a" * 48}}, "SEV")


@pytest.mark.parametrize("folder", vectors.cases("tdx"))
def test_genuine_quotes_by_their_own_registers(folder: Path) -> None:
    fields = vectors.meta(folder).get("expected")
    if not fields:
        return
    assert decide(fields, {}, "TDX")
    for name in REGISTERS:
        assert not decide(fields, {name: {"exact_match": "5a" * 48}}, "TDX")


@pytest.mark.parametrize("folder", vectors.cases("tdx"))
def test_tcb_rules_over_verified_quotes(folder: Path) -> None:
    """The whole way: signatures, collateral, then the tcb rule over what Intel says of this platform."""
    meta = vectors.meta(folder)
    blob, endorsements, at = load(folder)
    try:
        verified = verify_vendor(blob, endorsements, at=at)
    except TeeAgentError:
        assert (
            folder.name.startswith("neg-") or meta["tcb_status"] == "NoMatchingLevel" or "preproduction" in folder.name
        )
        return
    detail = meta.get("tcb_status_detail") or {}
    parts = {
        "platform_tcb": _worst(detail, "tcb_level_status", "svn2_level_status"),
        "tdx_module_tcb": _worst(detail, "tdx_module_status", "svn2_module_status"),
        "qe_tcb": _worst(detail, "qe_status"),
    }
    number = min(detail.get("tcb_evaluation_data_number", 0), detail.get("qe_identity_evaluation_data_number", 0))
    known = bool(detail)
    advisories = list(verified.advisories)
    cases: list[tuple[dict[str, Any], bool]] = [
        *[({part: "UpToDate"}, status == "UpToDate") for part, status in parts.items()],
        *[({part: ["OutOfDate"]}, status == "OutOfDate") for part, status in parts.items()],
        ({"allowed_statuses": [meta["tcb_status"] if known else "UpToDate"]}, known),
        ({"allowed_statuses": ["ConfigurationNeeded"]}, meta["tcb_status"] == "ConfigurationNeeded"),
        ({"min_evaluation_data_number": max(number, 1)}, known),
        ({"min_evaluation_data_number": number + 1}, False),
        ({"allowed_advisories": []}, known and not advisories),
        ({"allowed_advisories": advisories}, known),
        *[({"denied_advisories": [item]}, False) for item in advisories],
        ({"denied_advisories": ["INTEL-SA-99999"]}, known),
    ]
    rules = {name: {"exact_match": verified.fields[name]} for name in REGISTERS}
    metadata = {"policy_type": "TDX", "policy_id": "web", "key_id": "disk"}
    for rule, expected in cases:
        policy = Policy.parse({"metadata": metadata, "validation_rules": {**rules, "tcb": rule}})
        try:
            appraise(verified, policy=policy, floor=Floor(allow=FLOOR_NAMES))
            found = True
        except PolicyViolation as violation:
            assert violation.checks[-1].name == f"policy: tcb.{next(iter(rule))}"
            found = False
        assert found is expected, rule


def _worst(detail: dict[str, Any], *names: str) -> str:
    return min((detail[name] for name in names if name in detail), key=TCB_ORDER.index, default="n/a")
