"""Policies from anybody: whatever the document, reading it gives a policy or a FormatError, and judging never raises."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FormatError, TeeAgentError
from agent.core.policy import Policy, evaluate
from agent.core.rules import RULES
from agent.core.tcbrule import MEMBERS, TCB_PARTS
from agent.core.unspoken import unspoken
from tests.support.policies import SNP, TDX, document

names = st.sampled_from(
    [
        *RULES,
        *MEMBERS,
        *TCB_PARTS,
        *SNP,
        *TDX,
        *("any_of", "body", "raw", "snp", "debug_allowed", "metadata", "validation_rules", "signature", ""),
    ]
) | st.text(max_size=5)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["ab" * 48, "0x30000", "UpToDate", "INTEL-SA-00837", "1.55.43", "0x", "00" * 32])
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=20
)


def judged(policy: Policy) -> None:
    for fields in (SNP, TDX, {}, {"measurement": "ab" * 48}, {"mr_td": 7, "tcb": []}):
        checks = evaluate(policy, fields)
        assert [check.number for check in checks] == list(range(1, len(checks) + 1))
        assert all(len(check.detail) < 1000 for check in checks)
        assert all(line.startswith("policy: ") for line in unspoken(policy, fields))


@given(st.dictionaries(names, anything, max_size=6))
def test_any_object(found: dict[str, Any]) -> None:
    try:
        policy = Policy.parse(found)
    except FormatError as error:
        assert error.code == "format.policy"
        return
    judged(policy)


@given(st.sampled_from(["SEV", "TDX"]), st.dictionaries(names, anything, max_size=4))
def test_any_rules_beside_a_pinned_workload(kind: str, rules: dict[str, Any]) -> None:
    try:
        policy = Policy.parse(document(kind, rules))
    except FormatError as error:
        assert error.code == "format.policy"
        assert len(error.message) < 1000
        return
    judged(policy)
    judged(Policy.from_bytes(json.dumps(policy.document).encode()))


@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(data: bytes) -> None:
    try:
        Policy.from_bytes(data)
    except TeeAgentError as error:
        assert error.code.startswith("format")


def test_depth_without_end() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"metadata":' + "[" * 5000 + "]" * 5000 + "}"):
        try:
            Policy.from_bytes(text.encode())
        except FormatError:
            continue
        raise AssertionError(text[:20])
