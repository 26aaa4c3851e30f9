"""What a policy leaves open is listed, by name, and no more than that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.core.model import Tee, TrustAnchor, Verified
from agent.core.policy import Policy
from agent.core.unspoken import CARED_FOR, unspoken
from agent.verify.evidence import NO_POLICY, UNSIGNED, appraise
from tests.support.policies import SNP, TCB, TDX, document

PARTS = ("bootloader", "tee", "snp", "microcode")
SNP_ALL = list(CARED_FOR[Tee.SNP])
TDX_ALL = ["tcb", *CARED_FOR[Tee.TDX]]


def silent(rules: Any, kind: str = "SEV", fields: Any = None) -> list[str]:
    policy = Policy.parse(document(kind, rules))
    lines = unspoken(policy, fields or (SNP if kind == "SEV" else TDX))
    assert all(line.startswith("policy: says nothing of ") for line in lines)
    return [line.removeprefix("policy: says nothing of ") for line in lines]


def test_a_policy_of_measurements_only() -> None:
    assert silent({}) == SNP_ALL
    assert silent({}, "TDX") == TDX_ALL


def without(names: list[str], *spoken: str) -> list[str]:
    return [name for name in names if name not in spoken]


@pytest.mark.parametrize(
    ("rules", "spoken"),
    [
        ({"host_data": {"exact_match": "00" * 32}}, ["host_data"]),
        ({"host_data": {"deny_list": ["00" * 32]}}, ["host_data"]),
        ({"policy": {"smt_allowed": True}}, ["policy.smt_allowed"]),
        ({"policy": {"smt_allowed": {"boolean": True}}}, ["policy.smt_allowed"]),
        ({"policy_bits": {"smt": True, "migrate_ma": False}}, ["policy.smt_allowed", "policy.migrate_ma_allowed"]),
        ({"policy": {"exact_match": "0x30000"}}, ["policy.smt_allowed", "policy.migrate_ma_allowed"]),
        ({"policy": {"allow_list": ["0x30000"]}}, ["policy.smt_allowed", "policy.migrate_ma_allowed"]),
        ({"policy": {"min_value": 1}}, []),
        ({"policy": {"debug_allowed": False}}, []),
        ({"platform_info": {"alias_check_complete": True}}, ["platform_info.alias_check_complete"]),
        ({"reported_tcb": {part: {"min_value": 0} for part in PARTS}}, ["reported_tcb"]),
        ({"reported_tcb": {"exact_match": TCB["raw"]}}, ["reported_tcb"]),
        ({"launch_tcb": {"raw": {"allow_list": [TCB["raw"]]}}}, ["launch_tcb"]),
        ({"launch_tcb": {"raw": {"min_value": TCB["raw"]}}}, []),
        ({"launch_tcb": {"min_value": TCB["raw"]}}, []),
    ],
)
def test_what_speaks_of_what(rules: dict[str, Any], spoken: list[str]) -> None:
    assert silent(rules) == without(SNP_ALL, *spoken)


def test_parts_of_a_tcb_are_named_one_by_one() -> None:
    rules = {"reported_tcb": {"snp": {"min_value": 20}, "microcode": 84}}
    assert silent(rules)[:2] == ["reported_tcb.bootloader", "reported_tcb.tee"]


@pytest.mark.parametrize(
    ("rules", "spoken"),
    [
        ({"td_attributes": {"exact_match": TDX["td_attributes"]}}, ["td_attributes.migratable"]),
        ({"body": {"td_attributes": TDX["td_attributes"]}}, ["td_attributes.migratable"]),
        ({"body": {"td_attributes": {"migratable": False}}}, ["td_attributes.migratable"]),
        ({"td_attributes": {"sept_ve_disable": True}}, []),
        ({"body": {"mr_service_td": {"exact_match": "00" * 48}}}, ["mr_service_td"]),
        ({"rtmr3": {"deny_list": ["00" * 48]}}, ["rtmr3"]),
    ],
)
def test_tdx_under_both_names(rules: dict[str, Any], spoken: list[str]) -> None:
    assert silent(rules, "TDX") == without(TDX_ALL, *spoken)


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ({"update": "standard"}, ["platform_tcb", "tdx_module_tcb", "qe_tcb", "min_evaluation_data_number"]),
        ({"qe_tcb": "UpToDate"}, ["platform_tcb", "tdx_module_tcb", "min_evaluation_data_number"]),
        ({"allowed_statuses": ["UpToDate"]}, ["min_evaluation_data_number"]),
        ({"allowed_statuses": ["UpToDate"], "min_evaluation_data_number": 17}, []),
    ],
)
def test_members_of_the_tcb_rule(rule: dict[str, Any], left: list[str]) -> None:
    assert silent({"tcb": rule}, "TDX")[: len(left)] == [f"tcb.{name}" for name in left]
    assert not [name for name in silent({"tcb": rule}, "TDX")[len(left) :] if name.startswith("tcb")]


def test_a_field_that_the_evidence_does_not_have_is_not_listed() -> None:
    old = {name: value for name, value in TDX.items() if name != "mr_service_td"}
    assert silent({}, "TDX", old) == without(TDX_ALL, "mr_service_td")


def test_any_of_speaks_where_every_alternative_does() -> None:
    one, two = (
        {"rtmr3": {"exact_match": "00" * 48}},
        {"rtmr3": {"exact_match": "11" * 48}, "mr_owner": {"exact_match": "00" * 48}},
    )
    left = silent({"any_of": [one, two]}, "TDX")
    assert "rtmr3" not in left
    assert "mr_owner" in left


def verified(tee: Tee) -> Verified:
    fields = SNP if tee is Tee.SNP else TDX
    return Verified(tee, 3, bytes(64), fields, TrustAnchor("test", bytes(32)), (), tcb_status="n/a")


@pytest.mark.parametrize("tee", Tee)
def test_the_verdict_lists_it(tee: Tee) -> None:
    kind = "SEV" if tee is Tee.SNP else "TDX"
    policy = Policy.parse(document(kind))
    said = appraise(verified(tee), policy=policy).not_checked
    assert said == (UNSIGNED, *unspoken(policy, verified(tee).fields))
    assert UNSIGNED == "policy: signature"
    signed = appraise(verified(tee), policy=replace(policy, signer="sha256:00")).not_checked
    assert signed == said[1:]
    assert appraise(verified(tee)).not_checked == (NO_POLICY,)


def test_values_given_by_hand_need_no_signature() -> None:
    values = {"measurement": bytes.fromhex(SNP["measurement"])}
    assert UNSIGNED not in appraise(verified(Tee.SNP), policy=Policy.pinning(Tee.SNP, values)).not_checked


@pytest.mark.parametrize(
    ("rule", "judged"),
    [
        (None, False),
        ({"update": "standard"}, False),
        ({"denied_advisories": ["INTEL-SA-99999"]}, False),
        ({"allowed_statuses": ["SWHardeningNeeded"]}, True),
        (dict.fromkeys(("platform_tcb", "tdx_module_tcb", "qe_tcb"), "SWHardeningNeeded"), True),
    ],
)
def test_a_status_below_up_to_date_that_no_rule_judged_is_listed(rule: Any, judged: bool) -> None:
    detail = {"tcb_level_status": "SWHardeningNeeded", "tdx_module_status": "UpToDate", "qe_status": "UpToDate"}
    found = replace(verified(Tee.TDX), tcb_status="SWHardeningNeeded", fields={**TDX, "tcb_status_detail": detail})
    policy = Policy.parse(document("TDX", {"tcb": rule} if rule else {}))
    lines = [what for what in appraise(found, policy=policy).not_checked if what.startswith("TCB status")]
    assert bool(lines) is not judged
