"""A policy grows by a workload and shrinks back to one; as wholes, never as mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agent.core.draft import tighten
from agent.core.errors import Conflict, FormatError, PolicyViolation
from agent.core.policy import Policy, evaluate
from agent.core.widen import widened

A, B, C = ("a" * 96, "b" * 96, "c" * 96)
NAMES = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
Rules = dict[str, Any]


def snp(rules: Rules) -> Policy:
    return Policy.parse(
        {"metadata": {"policy_type": "SNP", "policy_id": "p", "key_id": "k"}, "validation_rules": rules}
    )


def tdx(rules: Rules) -> Policy:
    return Policy.parse(
        {"metadata": {"policy_type": "TDX", "policy_id": "p", "key_id": "k"}, "validation_rules": rules}
    )


def four(*values: str) -> dict[str, str]:
    return dict(zip(NAMES, values, strict=True))


def exact(workload: Mapping[str, str]) -> Rules:
    return {name: {"exact_match": value} for name, value in workload.items()}


def accepts(policy: Policy, workload: Mapping[str, str]) -> bool:
    return all(check.ok for check in evaluate(policy, workload))


ONE, TWO = four(A, A, A, A), four(A, A, B, C)
MIXED = four(A, A, B, A)
SNP_RULES: list[Rules] = [
    {"measurement": {"exact_match": A}},
    {"measurement": {"allow_list": [A]}, "vmpl": {"min_value": 0}},
    {"any_of": [{"measurement": {"exact_match": A}}]},
]
TDX_RULES: list[Rules] = [
    {"body": exact(ONE)},
    {"body": {name: {"allow_list": [value]} for name, value in ONE.items()}},
    {name: {"exact_match": value} for name, value in ONE.items()},
    {"body": exact({"mr_td": A, "rtmr0": A}), "rtmr1": {"exact_match": A}, "rtmr2": {"exact_match": A}},
    {"any_of": [{"body": exact(ONE)}]},
]


@pytest.mark.parametrize("rules", SNP_RULES)
def test_an_snp_policy_takes_one_measurement_more(rules: Rules) -> None:
    facts: Rules = {"vmpl": 0} if "vmpl" in rules else {}
    before = snp(rules)
    after = widened(before, {"measurement": B})
    assert [accepts(after, {"measurement": value, **facts}) for value in (A, B, C)] == [True, True, False]
    assert not accepts(before, {"measurement": B, **facts})
    assert widened(after, {"measurement": B}) is after
    kept = tighten(after, {"measurement": B})
    assert [accepts(kept, {"measurement": value, **facts}) for value in (A, B)] == [False, True]


@pytest.mark.parametrize("rules", TDX_RULES)
def test_a_tdx_policy_takes_a_whole_and_no_mixture(rules: Rules) -> None:
    after = widened(tdx(rules), TWO)
    assert [accepts(after, one) for one in (ONE, TWO, MIXED)] == [True, True, False]
    assert widened(after, TWO) is after
    kept = tighten(after, TWO)
    assert [accepts(kept, one) for one in (ONE, TWO)] == [False, True]
    again = widened(kept, ONE)
    assert [accepts(again, one) for one in (ONE, TWO, MIXED)] == [True, True, False]


def test_everything_else_stays_and_a_signature_goes() -> None:
    document = {
        "metadata": {"policy_type": "TDX", "policy_id": "p", "key_id": "k", "name": "free"},
        "validation_rules": {"body": {**exact(ONE), "xfam": {"exact_match": "00" * 8}}, "tcb": {"qe_tcb": "UpToDate"}},
        "signature": {"algorithm": "SHA384", "padding": "PSS", "value": "AAAA"},
    }
    after = widened(Policy.parse(document), TWO).document
    assert "signature" not in after
    assert after["metadata"] == document["metadata"]
    assert after["validation_rules"]["body"] == {"xfam": {"exact_match": "00" * 8}}
    assert after["validation_rules"]["tcb"] == {"qe_tcb": "UpToDate"}
    assert after["validation_rules"]["any_of"] == [{"body": exact(ONE)}, {"body": exact(TWO)}]


def test_a_rule_with_no_place_for_another_value() -> None:
    with pytest.raises(Conflict) as caught:
        widened(snp({"measurement": {"exact_match": A, "deny_list": [B]}}), {"measurement": B})
    assert caught.value.code == "conflict.policy"


@pytest.mark.parametrize(
    "workload", [{"measurement": "aa"}, {"measurement": A, "rtmr1": A}, {}, {"measurement": "zz" * 48}]
)
def test_what_is_no_workload(workload: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        widened(snp(SNP_RULES[0]), workload)


def test_what_is_not_accepted_can_not_be_kept() -> None:
    with pytest.raises(PolicyViolation):
        tighten(widened(tdx(TDX_RULES[0]), TWO), MIXED)
