"""any_of: whole alternatives and no mixture of them; it pins the workload only if each of its members does."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from agent.core.errors import FormatError
from agent.core.policy import Policy, evaluate
from tests.support.policies import PINNED, REGISTERS, SNP, TDX, M, document

NEXT = {name: f"{index + 0xD0:02x}" * 48 for index, name in enumerate(REGISTERS)}
NOW = {name: str(TDX[name]) for name in REGISTERS}


def exact(values: dict[str, str], *, body: bool = False) -> dict[str, Any]:
    rules: dict[str, Any] = {name: {"exact_match": value} for name, value in values.items()}
    return {"body": rules} if body else rules


def policy(rules: dict[str, Any], kind: str = "TDX") -> Policy:
    return Policy.parse({**document(kind), "validation_rules": rules})


def accepts(found: Policy, fields: dict[str, Any]) -> bool:
    return all(check.ok for check in evaluate(found, fields))


@pytest.mark.parametrize("body", [False, True])
def test_a_mixture_of_two_alternatives_is_in_neither(body: bool) -> None:
    found = policy({"any_of": [exact(NOW, body=body), exact(NEXT, body=body)]})
    for mixture in itertools.product((NOW, NEXT), repeat=4):
        values = {name: source[name] for name, source in zip(REGISTERS, mixture, strict=True)}
        assert accepts(found, {**TDX, **values}) is (values in (NOW, NEXT))


def test_lists_beside_each_other_accept_mixtures() -> None:
    """Which is why any_of is there."""
    found = policy({name: {"allow_list": [NOW[name], NEXT[name]]} for name in REGISTERS})
    assert accepts(found, {**TDX, **NOW, "rtmr1": NEXT["rtmr1"]})


def test_what_stands_outside_holds_as_well() -> None:
    rules = {"any_of": [exact(NOW), exact(NEXT)], "td_attributes": {"migratable": False}}
    assert accepts(policy(rules), {**TDX, **NEXT})
    assert not accepts(policy(rules), {**TDX, **NEXT, "td_attributes": "0000003000000000"})
    both = {**exact(NOW), "any_of": [exact(NOW), exact(NEXT)]}
    assert accepts(policy(both), TDX)
    assert not accepts(policy(both), {**TDX, **NEXT})


def test_alternatives_over_other_fields_than_the_workload() -> None:
    rules = {**PINNED, "any_of": [{"mr_owner": {"exact_match": "00" * 48}}, {"rtmr3": {"exact_match": "99" * 48}}]}
    assert accepts(policy(rules), TDX)
    assert accepts(policy(rules), {**TDX, "mr_owner": "11" * 48, "rtmr3": "99" * 48})
    assert not accepts(policy(rules), {**TDX, "mr_owner": "11" * 48})


def test_snp_has_sets_too() -> None:
    one = {"measurement": {"exact_match": M}, "host_data": {"exact_match": "00" * 32}}
    two = {"measurement": {"exact_match": "cd" * 48}, "host_data": {"exact_match": "11" * 32}}
    found = policy({"any_of": [one, two]}, "SEV")
    assert accepts(found, SNP)
    assert accepts(found, {**SNP, "measurement": "cd" * 48, "host_data": "11" * 32})
    assert not accepts(found, {**SNP, "host_data": "11" * 32})


def test_the_check_says_which_alternative_held_or_where_each_failed() -> None:
    found = policy({"any_of": [exact(NOW), exact(NEXT)]})
    (check,) = [check for check in evaluate(found, {**TDX, **NEXT}) if check.name == "policy: any_of"]
    assert (check.ok, check.detail) == (True, "alternative 2 of 2")
    mixed = {**TDX, **NEXT, "rtmr2": NOW["rtmr2"]}
    (check,) = [check for check in evaluate(found, mixed) if check.name == "policy: any_of"]
    assert check.detail == "no alternative holds: 1 fails mr_td exact_match, 2 fails rtmr2 exact_match"
    many = policy({"any_of": [exact(NEXT)] * 64})
    assert evaluate(many, TDX)[-1].detail.endswith("4 fails mr_td exact_match and 60 more")


def test_an_unknown_field_or_rule_fails_its_alternative() -> None:
    for wrong in ({"nothing": {"exact_match": 0}}, {"rtmr3": {"range": 0}}, {"rtmr3": {"min_value": 0}}):
        found = policy({"any_of": [{**exact(NOW), **wrong}]})
        assert not accepts(found, TDX)


@pytest.mark.parametrize("missing", REGISTERS)
def test_each_alternative_must_pin_the_whole_workload(missing: str) -> None:
    part = {name: rule for name, rule in exact(NEXT).items() if name != missing}
    with pytest.raises(FormatError, match=f"{missing} is not constrained in alternative 2 of any_of: each must pin"):
        policy({"any_of": [exact(NOW), part]})
    # Not even together with what stands outside: the two halves would be a cross product again.
    with pytest.raises(FormatError, match="alternative 2"):
        policy({"any_of": [exact(NOW), part], missing: {"exact_match": NOW[missing]}})
    assert policy({"any_of": [part], **PINNED})


REFUSED: list[tuple[str, Any, str]] = [
    ("no list", {}, "any_of is not a list of 1 to 64 objects"),
    ("empty", [], "any_of is not a list of 1 to 64 objects"),
    ("too many", [exact(NOW)] * 65, "any_of is not a list of 1 to 64 objects"),
    ("text", "x", "any_of is not a list of 1 to 64 objects"),
    ("empty alternative", [exact(NOW), {}], "any_of: alternative 2 is not an object with at least one rule"),
    ("list within", [[exact(NOW)]], "any_of: alternative 1 is not an object with at least one rule"),
    ("nested", [{"any_of": [exact(NOW)]}], "any_of: any_of can't stand in alternative 1"),
    ("tcb", [{**exact(NOW), "tcb": {"qe_tcb": "UpToDate"}}], "any_of: tcb can't stand in alternative 1"),
    ("scalar rule", [{**exact(NOW), "rtmr3": "00" * 48}], "'rtmr3': a rule is an object"),
    ("empty rule", [{**exact(NOW), "rtmr3": {}}], "'rtmr3': an empty rule accepts anything"),
    ("short", [{**exact(NOW), "rtmr2": {"exact_match": "00" * 47}}], "is not 48 bytes as hex"),
    ("denied only", [{**exact(NOW), "rtmr2": {"deny_list": ["00" * 48]}}], "rtmr2 is not constrained in alternative 1"),
]


@pytest.mark.parametrize(("found", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused_when_read(found: Any, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        policy({"any_of": found})
    assert message in caught.value.message
    assert caught.value.code == "format.policy"


def test_a_policy_that_pins_beside_any_of_needs_no_pins_within() -> None:
    assert policy({**PINNED, "any_of": [{"rtmr3": {"exact_match": "00" * 48}}]})


def test_any_of_below_the_top_is_a_field_that_no_evidence_has() -> None:
    assert not accepts(policy({"body": {**PINNED, "any_of": {"exact_match": 0}}}), TDX)
