"""The tcb rule: statuses by part and over all, advisories, evaluation numbers; closed without collateral."""

from __future__ import annotations

from typing import Any

import pytest

from agent.core.errors import FormatError
from agent.core.policy import Policy, evaluate
from agent.core.tcbrule import ACCEPTABLE, MEMBERS, OVERALL, TCB_ORDER, TCB_PARTS, speaks_of
from tests.support.policies import SNP, TDX, decide, document


def with_tcb(**changes: Any) -> dict[str, Any]:
    return {**TDX, "tcb": {**TDX["tcb"], **changes}}


def holds(rule: dict[str, Any], **changes: Any) -> bool:
    return decide(with_tcb(**changes), {"tcb": rule}, "TDX")


@pytest.mark.parametrize("part", TCB_PARTS)
def test_least_status_of_each_part(part: str) -> None:
    for rank, wanted in enumerate(TCB_ORDER):
        for have_rank, have in enumerate(TCB_ORDER):
            assert holds({part: wanted}, **{part: have}) is (have_rank >= max(rank, 2)), (wanted, have)


@pytest.mark.parametrize("part", TCB_PARTS)
@pytest.mark.parametrize("have", [*TCB_ORDER, "NoMatchingLevel", "n/a", "", None, 7])
def test_listed_statuses_of_each_part(part: str, have: Any) -> None:
    listed = ["UpToDate", "OutOfDate"]
    assert holds({part: listed}, **{part: have}) is (have in listed)
    assert holds({part: list(ACCEPTABLE)}, **{part: have}) is (have in ACCEPTABLE)


@pytest.mark.parametrize("have", [*OVERALL, "Revoked", "NotSupported", "NoMatchingLevel", "n/a", None])
def test_allowed_statuses_of_the_whole(have: Any) -> None:
    for listed in (["UpToDate"], ["SWHardeningNeeded", "TDRelaunchAdvised"], list(OVERALL)):
        assert holds({"allowed_statuses": listed}, status=have) is (have in listed)


@pytest.mark.parametrize(("number", "least", "ok"), [(17, 17, True), (18, 17, True), (16, 17, False), (None, 1, False)])
def test_evaluation_number(number: Any, least: int, ok: bool) -> None:
    assert holds({"min_evaluation_data_number": least}, evaluation_data_number=number) is ok


@pytest.mark.parametrize(
    ("advisories", "denied", "allowed"),
    [
        ([], True, True),
        (["INTEL-SA-00837"], False, True),
        (["INTEL-SA-00001"], True, False),
        (["INTEL-SA-00837", "INTEL-SA-00001"], False, False),
        (None, False, False),
        ("INTEL-SA-00837", False, False),
    ],
)
def test_advisories(advisories: Any, denied: bool, allowed: bool) -> None:
    assert holds({"denied_advisories": ["INTEL-SA-00837"]}, advisories=advisories) is denied
    assert holds({"allowed_advisories": ["INTEL-SA-00837", "INTEL-SA-00002"]}, advisories=advisories) is allowed
    assert holds({"allowed_advisories": []}, advisories=advisories) is (advisories == [])


def test_all_members_must_hold() -> None:
    rule = {"qe_tcb": "UpToDate", "allowed_statuses": ["UpToDate"], "min_evaluation_data_number": 17}
    assert holds(rule)
    assert not holds(rule, qe_tcb="OutOfDate")
    assert not holds(rule, status="OutOfDate")
    assert not holds(rule, evaluation_data_number=3)


@pytest.mark.parametrize("name", [*TCB_PARTS, *MEMBERS])
@pytest.mark.parametrize("found", [None, "UpToDate", [], {}])
def test_without_collateral_everything_fails(name: str, found: Any) -> None:
    wanted: dict[str, Any] = {
        "update": "early",
        "allowed_statuses": list(OVERALL),
        "min_evaluation_data_number": 1,
        "denied_advisories": ["INTEL-SA-00837"],
        "allowed_advisories": ["INTEL-SA-00837"],
    }
    assert not decide({**TDX, "tcb": found}, {"tcb": {name: wanted.get(name, "NotSupported")}}, "TDX")


REFUSED: list[tuple[Any, str]] = [
    ({}, "tcb is an object of platform_tcb, tdx_module_tcb, qe_tcb, update, allowed_statuses"),
    (["UpToDate"], "tcb is an object of"),
    ({"qe_tcb": "uptodate"}, "tcb.qe_tcb is not one of NotSupported, Revoked"),
    ({"qe_tcb": []}, "tcb.qe_tcb is not a list with at least one status"),
    ({"qe_tcb": ["UpToDate", "Revoked"]}, "tcb.qe_tcb: 'Revoked' is not one of OutOfDateConfigurationNeeded"),
    ({"qe_tcb": ["TDRelaunchAdvised"]}, "tcb.qe_tcb: 'TDRelaunchAdvised' is not one of"),
    ({"qe_tcb": None}, "tcb.qe_tcb is not one of"),
    ({"qe_tcb": {"exact_match": "UpToDate"}}, "tcb.qe_tcb is not one of"),
    ({"gpu_tcb": "UpToDate"}, "tcb: unknown part 'gpu_tcb'"),
    ({"allowed_statuses": "UpToDate"}, "tcb.allowed_statuses is not a list with at least one status"),
    ({"allowed_statuses": []}, "tcb.allowed_statuses is not a list with at least one status"),
    ({"allowed_statuses": ["NoMatchingLevel"]}, "tcb.allowed_statuses: 'NoMatchingLevel' is not one of"),
    ({"allowed_statuses": [["UpToDate"]]}, "is not one of"),
    ({"min_evaluation_data_number": 0}, "tcb.min_evaluation_data_number is not a number above 0"),
    ({"min_evaluation_data_number": True}, "is not a number above 0"),
    ({"min_evaluation_data_number": "17"}, "is not a number above 0"),
    ({"min_evaluation_data_number": 17.0}, "is not a number above 0"),
    ({"min_evaluation_data_number": 2**53}, "is not a number above 0"),
    ({"denied_advisories": []}, "tcb.denied_advisories is not a list with at least one advisory"),
    ({"denied_advisories": "INTEL-SA-00837"}, "tcb.denied_advisories is not a list of advisories"),
    ({"denied_advisories": ["intel-sa-00837"]}, "is no advisory's id, which looks like INTEL-SA-00837"),
    ({"denied_advisories": ["INTEL-SA-837"]}, "is no advisory's id"),
    ({"denied_advisories": [837]}, "is no advisory's id"),
    ({"allowed_advisories": {"a": 1}}, "tcb.allowed_advisories is not a list of advisories"),
    ({"update": "late"}, "tcb.update is not one of standard, early"),
    ({"update": ["standard"]}, "tcb.update is not one of standard, early"),
]


@pytest.mark.parametrize(("rule", "message"), REFUSED)
def test_refused_when_read(rule: Any, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        Policy.parse(document("TDX", {"tcb": rule}))
    assert message in caught.value.message
    assert caught.value.code == "format.policy"


def test_snp_has_no_tcb_rule() -> None:
    rules = {"tcb": {"qe_tcb": {"exact_match": "UpToDate"}}}
    checks = evaluate(Policy.parse(document("SEV", rules)), SNP)
    assert not all(check.ok for check in checks)


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        (None, set()),
        ({"update": "standard"}, set()),
        ({"denied_advisories": ["INTEL-SA-00837"]}, set()),
        ({"qe_tcb": "OutOfDate"}, {"qe_tcb"}),
        ({"allowed_statuses": ["UpToDate"]}, set(TCB_PARTS)),
    ],
)
def test_which_parts_a_rule_speaks_of(rule: Any, parts: set[str]) -> None:
    assert {part for part in TCB_PARTS if speaks_of(rule, part)} == parts
