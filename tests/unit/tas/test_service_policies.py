"""The service over richer policies: sets, the tcb rule against its own demand, and what it logs as not checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.core.errors import TcbRejected
from agent.core.model import Tee, TrustAnchor, Verified
from agent.core.policy import Policy
from tas.service import require_current_tcb
from tests.support.policies import TDX, document
from tests.support.simulator import pki_state
from tests.support.tas import snp_policy, tdx_policy
from tests.unit.tas.test_service import RULES, World, provers, worlds

__all__ = ["pki_state", "provers", "worlds"]
PARTS = {"platform_tcb": "tcb_level_status", "tdx_module_tcb": "tdx_module_status", "qe_tcb": "qe_status"}
FAILED = (400, "TEE verification failed")


def with_rules(base: dict[str, Any], **rules: Any) -> dict[str, Any]:
    return {**base, "validation_rules": {**base["validation_rules"], **rules}}


def test_a_set_releases_to_its_members_only(worlds: dict[str, World]) -> None:
    world = worlds["tdx"]
    running = {name: {"exact_match": value} for name, value in RULES.items()}
    other = {name: {"exact_match": "77" * 48} for name in RULES}
    bare = {**tdx_policy("td", "disk", RULES), "validation_rules": {"any_of": [other, running]}}
    world.put(bare)
    assert world.ask("td")[0] == 200
    mixed = {**running, "rtmr2": other["rtmr2"]}
    world.put({**bare, "validation_rules": {"any_of": [other, mixed]}})
    assert world.ask("td") == FAILED
    assert world.reason()["code"] == "verify.policy"


@pytest.mark.parametrize(
    ("rule", "released"),
    [
        ({"allowed_statuses": ["UpToDate"], "min_evaluation_data_number": 1}, True),
        ({"allowed_statuses": ["OutOfDate"]}, False),
        ({"min_evaluation_data_number": 1 << 40}, False),
        ({"platform_tcb": ["UpToDate", "SWHardeningNeeded"], "allowed_advisories": []}, True),
        ({"denied_advisories": ["INTEL-SA-99999"]}, True),
    ],
)
def test_the_tcb_rule_at_the_service(worlds: dict[str, World], rule: dict[str, Any], released: bool) -> None:
    world = worlds["tdx"]
    world.put(with_rules(tdx_policy("td", "disk", RULES), tcb=rule))
    assert (world.ask("td")[0] == 200) is released


def test_what_the_policy_leaves_open_is_in_the_log_of_a_release(worlds: dict[str, World]) -> None:
    for tee, policy in (("snp", "web"), ("tdx", "td")):
        assert worlds[tee].ask(policy)[0] == 200
        left = worlds[tee].reason()["not_checked"]
        assert "policy: signature" in left
        assert ("policy: says nothing of reported_tcb" if tee == "snp" else "policy: says nothing of tcb") in left


def test_the_floor_holds_though_a_policy_asks_for_less(worlds: dict[str, World]) -> None:
    world = worlds["snp"]
    document = snp_policy("web", "disk", "00" * 48)
    world.put(with_rules(document, policy={"debug_allowed": True}))
    assert world.ask() == FAILED


def found(**statuses: str) -> Verified:
    detail = {PARTS[part]: statuses.get(part, "UpToDate") for part in PARTS}
    fields = {**TDX, "tcb_status_detail": detail}
    return Verified(Tee.TDX, 5, bytes(64), fields, TrustAnchor("test", bytes(32)), (), tcb_status="OutOfDate")


def demanded(rule: Any, verified: Verified) -> bool:
    policy = Policy.parse(document("TDX", {"tcb": rule} if rule else {}))
    try:
        require_current_tcb(policy, verified)
    except TcbRejected:
        return False
    return True


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_demanded_unless_spoken_of(part: str) -> None:
    for status in ("OutOfDate", "SWHardeningNeeded", "n/a", "Revoked", "NoMatchingLevel", "anything"):
        old = found(**{part: status})
        for silent in (
            None,
            {"update": "standard"},
            {"min_evaluation_data_number": 1},
            {"denied_advisories": ["INTEL-SA-99999"]},
            {other: "OutOfDate" for other in PARTS if other != part},
        ):
            assert not demanded(silent, old), (status, silent)
        for spoken in ({part: "OutOfDate"}, {part: ["OutOfDate"]}, {"allowed_statuses": ["OutOfDate"]}):
            assert demanded(spoken, old), (status, spoken)  # the rule itself judges it, in evaluate
    assert demanded(None, found())


def test_without_collateral_nothing_is_current() -> None:
    bare = replace(found(), fields={name: value for name, value in TDX.items() if name != "tcb"})
    assert not demanded(None, bare)
