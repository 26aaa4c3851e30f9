"""Policies: refused unless they constrain the workload; evaluated type-strictly and closed."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from agent.core.errors import FormatError, Oversized
from agent.core.model import Tee
from agent.core.policy import MAX_BYTES, Policy, evaluate
from tests.support.policies import PINNED, SNP, TDX, M, decide, document

# Parsing


def test_metadata() -> None:
    policy = Policy.parse(document(name="any", version="1.0", policy_id=17))
    assert (policy.policy_id, policy.key_id, policy.tee) == ("17", "disk", Tee.SNP)
    assert Policy.from_bytes(json.dumps(document("TDX"), indent=2).encode()).tee is Tee.TDX


@pytest.mark.parametrize("kind", ["SEV", "sev", "SNP", "SEV-SNP", "amd-sev-snp"])
def test_names_of_snp(kind: str) -> None:
    assert Policy.parse({**document(), "metadata": {**document()["metadata"], "policy_type": kind}}).tee is Tee.SNP


def test_the_document_is_kept_whole() -> None:
    signed = {**document(), "signature": {"algorithm": "SHA384", "value": "AA=="}}
    before = copy.deepcopy(signed)
    policy = Policy.parse(signed)
    evaluate(policy, SNP)
    assert policy.document == before


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"metadata": {}},
        {"metadata": [], "validation_rules": {}},
        {**document(), "validation_rules": {}},
        {**document(), "validation_rules": []},
        {**document(), "components": {"gpu": {}}},
        {**document(), "signed_data": {}},
        document(policy_type="SGX"),
        document(policy_type=None),
        document(policy_id="a/b"),
        document(policy_id=""),
        document(policy_id="x" * 129),
        document(policy_id=True),
        document(key_id=""),
        document(key_id=1),
        document(key_id="a\nb"),
        document(rules={"vmpl": 0}),
        document(rules={"vmpl": {}}),
        document(rules={"policy": {"debug_allowed": {}}}),
        document(rules={"vmpl": {"exact_match": None}}),
        document(rules={"vmpl": {"exact_match": [0]}}),
        document(rules={"vmpl": {"exact_match": 0.5}}),
        document(rules={"vmpl": {"allow_list": []}}),
        document(rules={"vmpl": {"allow_list": 0}}),
        document(rules={"vmpl": {"deny_list": [{}]}}),
        document(rules={"guest_svn": {"min_value": True}}),
        document(rules={"guest_svn": {"max_value": [1]}}),
        document(rules={"policy": {"debug_allowed": {"boolean": 0}}}),
        document("TDX", {"tcb": {}}),
        document("TDX", {"tcb": {"platform_tcb": "Fine"}}),
        document("TDX", {"tcb": {"gpu_tcb": "UpToDate"}}),
        document("TDX", {"tcb": {"update": "late"}}),
        document("TDX", {"tcb": "UpToDate"}),
    ],
)
def test_malformed_policies_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        Policy.parse(wrong)
    assert caught.value.code == "format.policy"


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        ("SEV", {"measurement": {"deny_list": ["00" * 48]}}),
        ("SEV", {"measurement": {"min_value": 1}}),
        ("SEV", {"measurement": {"exact_match": ""}}),
        ("SEV", {"measurement": {"exact_match": "..."}}),
        ("SEV", {"measurement": {"exact_match": "ab" * 47}}),
        ("SEV", {"measurement": {"allow_list": [M, "ab"]}}),
        ("SEV", {"measurement": {"exact_match": 0}}),
        ("SEV", {"measurement": {"exact_match": "0X" + M}}),
        *[("TDX", {name: {"deny_list": [M]}}) for name in PINNED],
        ("TDX", {"body": {"mr_td": "00"}}),
    ],
)
def test_a_policy_that_pins_no_workload_is_refused(kind: str, rules: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        Policy.parse(document(kind, rules))
    assert caught.value.code == "format.policy"


def test_rules_of_the_other_platform_dont_constrain_this_one() -> None:
    with pytest.raises(FormatError, match="mr_td is not constrained"):
        Policy.parse({**document(), "metadata": {**document()["metadata"], "policy_type": "TDX"}})


def test_upstreams_form_inside_body_constrains() -> None:
    rules = {"body": PINNED}
    policy = Policy.parse({**document("TDX"), "validation_rules": rules})
    assert all(check.ok for check in evaluate(policy, TDX))
    shorthand = {"body": {name: TDX[name] for name in PINNED}}
    policy = Policy.parse({**document("TDX"), "validation_rules": shorthand})
    assert all(check.ok for check in evaluate(policy, TDX))


def test_deep_nesting_and_size_are_bounded() -> None:
    rule: dict[str, Any] = {"exact_match": 0}
    for _ in range(20):
        rule = {"x": rule}
    with pytest.raises(FormatError, match="deep"):
        Policy.parse(document(rules={"x": rule}))
    with pytest.raises(Oversized):
        Policy.from_bytes(b" " * (MAX_BYTES + 1))


# Rules


@pytest.mark.parametrize(
    "rules",
    [
        {"vmpl": {"exact_match": 0}},
        {"guest_svn": {"min_value": 2, "max_value": 2}},
        {"guest_svn": {"allow_list": [1, 2], "deny_list": [3]}},
        {"policy": {"exact_match": "0x30000"}},
        {"policy": {"exact_match": 0x30000, "debug_allowed": False, "smt_allowed": {"boolean": True}}},
        {"policy": {"migrate_ma_allowed": False, "abi_major": 0}},
        {"platform_info": {"ecc_enabled": {"boolean": True}, "alias_check_complete": True, "tsme_enabled": False}},
        {"key_info": {"signing_key": 0, "author_key_en": False}},
        {"measurement": {"exact_match": "0x" + M.upper()}},
        {"measurement": {"allow_list": ["00" * 48, M.upper()]}},
        {"measurement": {"exact_match": M, "deny_list": ["00" * 48]}},
        {"reported_tcb": {"snp": {"min_value": 25}, "bootloader": 10}},
        {"cpuid": {"family_id": 25, "model": {"exact_match": 17}}},
        {"current_version": {"exact_match": "1.55.43", "minor": {"min_value": 55}}},
        {"launch_mit_vector": {"min_value": 1}},
        {"launch_mit_vector": {"min_value": "0x1"}},
    ],
)
def test_rules_that_hold(rules: dict[str, Any]) -> None:
    assert decide(SNP, rules)


@pytest.mark.parametrize(
    "rules",
    [
        {"vmpl": {"exact_match": 1}},
        {"vmpl": {"exact_match": "0"}},
        {"vmpl": {"exact_match": False}},
        {"vmpl": {"boolean": False}},
        {"vmpl": {"deny_list": ["0"]}},
        {"guest_svn": {"min_value": 3}},
        {"guest_svn": {"max_value": 1}},
        {"guest_svn": {"min_value": "1"}},
        {"guest_svn": {"allow_list": [1, 3]}},
        {"guest_svn": {"deny_list": [1, 2]}},
        {"policy": {"debug_allowed": True}},
        {"policy": {"smt_allowed": {"exact_match": 1}}},
        {"policy": {"exact_match": "30000"}},
        {"policy": {"deny_list": ["0x30000"]}},
        {"measurement": {"exact_match": M, "deny_list": [M.upper()]}},
        {"measurement": {"exact_match": M, "deny_list": ["0x" + M]}},
        {"measurement": {"exact_match": M, "deny_list": ["not hex"]}},
        {"measurement": {"exact_match": M, "deny_list": [M[:-2]]}},
        {"measurement": {"exact_match": M, "min_value": 0}},
        {"host_data": {"allow_list": ["00"]}},
        {"reported_tcb": {"snp": {"min_value": 26}}},
        {"reported_tcb": {"fmc": {"min_value": 0}}},
        {"cpuid": {"exact_match": 25}},
        {"nothing": {"exact_match": 0}},
        {"vmpl": {"below": {"exact_match": 0}}},
        {"vmpl": {"range": 0}},
        {"current_version": {"min_value": 1}},
        {"tcb": {"platform_tcb": "UpToDate"}},
    ],
)
def test_rules_that_fail(rules: dict[str, Any]) -> None:
    assert not decide(SNP, rules)


def test_an_absent_optional_field_fails() -> None:
    old = {**SNP, "version": 2, "cpuid": None}
    assert not decide(old, {"cpuid": {"family": 25}})


def test_tdx_fields_by_both_names() -> None:
    rules: dict[str, Any] = {
        "rtmr3": {"deny_list": ["ff" * 48]},
        "body": {"rtmr3": {"exact_match": "03" * 48}, "td_attributes": "0000001000000000"},
        "header": {"version": 5, "tee_type": 0x81},
        "signature_data": {"qe_cert_data": {"qe_report": {"isv_svn": {"min_value": 8}, "mr_signer": "0D" * 32}}},
        "fmspc": {"exact_match": "90C06F000000"},
        "td_debug": {"boolean": False},
    }
    assert decide(TDX, rules, "TDX")


@pytest.mark.parametrize(
    ("have", "want", "ok"),
    [
        ("UpToDate", "UpToDate", True),
        ("SWHardeningNeeded", "UpToDate", False),
        ("SWHardeningNeeded", "ConfigurationNeeded", True),
        ("OutOfDate", "OutOfDate", True),
        ("OutOfDateConfigurationNeeded", "OutOfDate", False),
        ("TDRelaunchAdvised", "OutOfDate", True),
        ("TDRelaunchAdvised", "UpToDate", False),
        ("Revoked", "Revoked", False),
        ("NotSupported", "NotSupported", False),
        ("NoMatchingLevel", "NotSupported", False),
        ("n/a", "NotSupported", False),
        ("", "NotSupported", False),
    ],
)
def test_tcb_statuses(have: str, want: str, ok: bool) -> None:
    fields = {**TDX, "tcb": {**TDX["tcb"], "tdx_module_tcb": have}}
    assert decide(fields, {"tcb": {"tdx_module_tcb": want, "platform_tcb": "UpToDate"}}, "TDX") is ok


def test_no_collateral_fails_a_tcb_rule() -> None:
    fields = {name: value for name, value in TDX.items() if name != "tcb"}
    assert not decide(fields, {"tcb": {"qe_tcb": "OutOfDate"}}, "TDX")


def test_early_collateral_has_to_be_early() -> None:
    assert decide(TDX, {"tcb": {"update": "standard"}}, "TDX")
    assert not decide(TDX, {"tcb": {"update": "early"}}, "TDX")
    early = {**TDX, "tcb": {**TDX["tcb"], "update": "early"}}
    assert decide(early, {"tcb": {"update": "early"}}, "TDX")


def test_a_policy_for_the_other_platform_fails() -> None:
    checks = evaluate(Policy.parse(document("TDX")), SNP)
    assert not checks[0].ok
    assert not any(check.ok for check in checks)


def test_pinning() -> None:
    values = {name: bytes.fromhex(str(TDX[name])) for name in PINNED}
    policy = Policy.pinning(Tee.TDX, values)
    assert all(check.ok for check in evaluate(policy, TDX))
    for name in values:
        with pytest.raises(FormatError):
            Policy.pinning(Tee.TDX, {key: value for key, value in values.items() if key != name})
