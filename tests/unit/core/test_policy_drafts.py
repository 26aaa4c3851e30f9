"""Drafts over any fields: they accept what they were drawn from, and no machine with one measurement changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.draft import draft, tighten
from agent.core.errors import FormatError, PolicyViolation
from agent.core.model import Tee
from agent.core.policy import WORKLOAD, Policy, evaluate
from tests.support.policies import REGISTERS, SNP, TDX, document

UP = dict.fromkeys(("platform_tcb", "tdx_module_tcb", "qe_tcb"), "UpToDate")
octets48 = st.binary(min_size=48, max_size=48).map(bytes.hex)
parts = st.fixed_dictionaries({name: st.integers(0, 255) for name in ("bootloader", "tee", "snp", "microcode")})
snp_fields = st.builds(
    lambda measurement, reported, launch, policy, platform, vmpl: {
        **SNP,
        "measurement": measurement,
        "reported_tcb": {"raw": "0x0000000000000000", **reported},
        "launch_tcb": {"raw": "0x0000000000000000", **launch},
        "policy": f"0x{policy & ~(1 << 19) | 1 << 17:016x}",
        "platform_info": f"0x{platform:016x}",
        "vmpl": vmpl,
    },
    octets48,
    parts,
    parts,
    st.integers(0, (1 << 26) - 1),
    st.integers(0, 255),
    st.integers(0, 3),
)
tdx_fields = st.builds(
    lambda values, upper: {
        **TDX,
        **dict(zip(REGISTERS, values, strict=True)),
        "td_attributes": f"00000010{upper:08x}",
        "tcb": UP,
    },
    st.lists(octets48, min_size=4, max_size=4),
    st.integers(0, (1 << 32) - 1),
)
workloads = {
    Tee.SNP: st.lists(octets48.map(lambda value: {"measurement": value}), max_size=4),
    Tee.TDX: st.lists(st.fixed_dictionaries(dict.fromkeys(REGISTERS, octets48)), max_size=4),
}


def accepts(policy: Policy, fields: dict[str, Any]) -> bool:
    return all(check.ok for check in evaluate(policy, fields))


def flipped(text: str, position: int) -> str:
    data = bytearray.fromhex(text)
    data[position // 8 % len(data)] ^= 1 << position % 8
    return data.hex()


def check(tee: Tee, fields: dict[str, Any], also: list[dict[str, str]], position: int) -> None:
    policy = draft(tee, fields, policy_id="web", key_id="disk", also=also)
    assert accepts(policy, fields)
    wanted = [{name: fields[name] for name in WORKLOAD[tee]}, *also]
    for workload in wanted:
        assert accepts(policy, {**fields, **workload})
        for name in WORKLOAD[tee]:
            changed = {**workload, name: flipped(workload[name], position)}
            assert accepts(policy, {**fields, **changed}) is (changed in wanted)
    # And the document survives its own wire form.
    assert accepts(Policy.from_bytes(json.dumps(policy.document).encode()), fields)
    for workload in wanted:
        tight = tighten(policy, workload)
        for other in wanted:
            assert accepts(tight, {**fields, **other}) is (other == workload)


@given(snp_fields, workloads[Tee.SNP], st.integers(0, 383))
def test_snp_drafts(fields: dict[str, Any], also: list[dict[str, str]], position: int) -> None:
    check(Tee.SNP, fields, also, position)


@given(tdx_fields, workloads[Tee.TDX], st.integers(0, 383))
def test_tdx_drafts(fields: dict[str, Any], also: list[dict[str, str]], position: int) -> None:
    check(Tee.TDX, fields, also, position)


@given(snp_fields, st.sampled_from(["bootloader", "snp", "microcode"]), st.sampled_from(["reported_tcb", "launch_tcb"]))
def test_snp_drafts_refuse_an_older_tcb(fields: dict[str, Any], part: str, kind: str) -> None:
    policy = draft(Tee.SNP, fields, policy_id="web", key_id="disk")
    least = policy.rules[kind][part]["min_value"]
    assert accepts(policy, {**fields, kind: {**fields[kind], part: least}})
    assert not accepts(policy, {**fields, kind: {**fields[kind], part: least - 1}})


NEXT = dict.fromkeys(REGISTERS, "d1" * 48)


def test_one_workload_keeps_the_public_service_s_form_and_several_need_any_of() -> None:
    alone = draft(Tee.TDX, {**TDX, "tcb": UP}, policy_id="web", key_id="disk")
    assert "any_of" not in alone.rules
    both = draft(Tee.TDX, TDX, policy_id="web", key_id="disk", also=[NEXT])
    assert [set(item["body"]) for item in both.rules["any_of"]] == [set(REGISTERS)] * 2
    same = draft(Tee.TDX, TDX, policy_id="web", key_id="disk", also=[{name: TDX[name].upper() for name in REGISTERS}])
    assert same.rules == alone.rules
    snp = draft(Tee.SNP, SNP, policy_id="web", key_id="disk", also=[{"measurement": "CD" * 48}])
    assert snp.rules["measurement"] == {"allow_list": [SNP["measurement"], "cd" * 48]}


def test_protections_that_are_on_are_demanded() -> None:
    rules = draft(Tee.SNP, SNP, policy_id="web", key_id="disk").rules
    assert rules["platform_info"] == {"alias_check_complete": True}
    bare = draft(Tee.SNP, {**SNP, "platform_info": "0x0000000000000001"}, policy_id="web", key_id="disk").rules
    assert "platform_info" not in bare
    both = draft(Tee.SNP, {**SNP, "platform_info": "0x0000000000000030"}, policy_id="web", key_id="disk").rules
    assert both["platform_info"] == {"alias_check_complete": True, "ciphertext_hiding_enabled": True}


@pytest.mark.parametrize(
    ("tee", "workload", "message"),
    [
        (Tee.SNP, {}, "a workload of amd-sev-snp has measurement, not"),
        (Tee.SNP, NEXT, "has measurement, not mr_td, rtmr0, rtmr1, rtmr2"),
        (Tee.TDX, {"mr_td": "00" * 48}, "has mr_td, rtmr0, rtmr1, rtmr2, not mr_td"),
        (Tee.TDX, {**NEXT, "rtmr3": "00" * 48}, "not mr_td, rtmr0, rtmr1, rtmr2, rtmr3"),
        (Tee.TDX, {**NEXT, "rtmr2": "00" * 47}, "is not 48 bytes as hex"),
        (Tee.SNP, {"measurement": "zz" * 48}, "is not 48 bytes as hex"),
    ],
)
def test_a_workload_that_is_none(tee: Tee, workload: dict[str, str], message: str) -> None:
    fields = SNP if tee is Tee.SNP else TDX
    with pytest.raises(FormatError) as caught:
        draft(tee, fields, policy_id="web", key_id="disk", also=[workload])
    assert message in caught.value.message
    with pytest.raises(FormatError) as caught:
        tighten(draft(tee, fields, policy_id="web", key_id="disk"), workload)
    assert message in caught.value.message


# tighten, over policies that others wrote


def test_everything_else_stays_and_the_signature_goes() -> None:
    extra = {
        "vmpl": {"exact_match": 0},
        "measurement": {"allow_list": [SNP["measurement"], "cd" * 48], "deny_list": ["00" * 48]},
    }
    policy = Policy.parse({**document(rules=extra, name="kept"), "signature": {"value": "AAAA"}})
    tight = tighten(policy, {"measurement": SNP["measurement"].upper()})
    assert tight.document["metadata"]["name"] == "kept"
    assert "signature" not in tight.document
    assert tight.rules["vmpl"] == extra["vmpl"]
    assert tight.rules["measurement"] == {"allow_list": [SNP["measurement"]], "deny_list": ["00" * 48]}
    assert policy.rules["measurement"] == extra["measurement"]


def test_lists_beside_each_other_are_cut() -> None:
    now = {name: TDX[name] for name in REGISTERS}
    rules = {"body": {name: {"allow_list": [NEXT[name], now[name]]} for name in REGISTERS}}
    policy = Policy.parse({**document("TDX"), "validation_rules": rules})
    tight = tighten(policy, now)
    assert tight.rules == {"body": {name: {"allow_list": [now[name]]} for name in REGISTERS}}


def test_an_alternative_that_clashes_with_what_stands_outside_stays_in_any_of() -> None:
    now = {name: {"exact_match": TDX[name]} for name in REGISTERS}
    first = {**now, "rtmr3": {"exact_match": TDX["rtmr3"]}}
    rules = {
        "rtmr3": {"deny_list": ["00" * 48]},
        "any_of": [first, {name: {"exact_match": NEXT[name]} for name in REGISTERS}],
    }
    policy = Policy.parse({**document("TDX"), "validation_rules": rules})
    tight = tighten(policy, {name: TDX[name] for name in REGISTERS})
    assert tight.rules == {"rtmr3": rules["rtmr3"], "any_of": [first]}
    assert accepts(tight, TDX)


def test_what_the_policy_does_not_accept_can_t_be_kept() -> None:
    for policy, keep in (
        (draft(Tee.SNP, SNP, policy_id="a", key_id="k"), {"measurement": "cd" * 48}),
        (draft(Tee.TDX, TDX, policy_id="a", key_id="k"), NEXT),
        (draft(Tee.TDX, TDX, policy_id="a", key_id="k", also=[NEXT]), {**NEXT, "rtmr1": TDX["rtmr1"]}),
        (Policy.parse(document()), {"measurement": "cd" * 48}),
    ):
        with pytest.raises(PolicyViolation, match="does not accept this workload"):
            tighten(policy, keep)
