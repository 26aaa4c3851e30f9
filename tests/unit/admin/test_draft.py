"""Drafts hold the machine they were drawn from, and nothing less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.core.draft import DEMANDS, PERMISSIONS, draft, remarks
from agent.core.errors import FormatError, PolicyViolation
from agent.core.model import Tee
from agent.core.policy import WORKLOAD, evaluate
from agent.verify.evidence import parse_fields
from sim.psp import GuestOptions
from sim.qe import DomainOptions
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]
Fields = dict[str, Any]
UP = {"tcb": {"platform_tcb": "UpToDate", "tdx_module_tcb": "UpToDate", "qe_tcb": "UpToDate"}}


def fields(tee: str, state: Path, options: GuestOptions | DomainOptions | None = None) -> Fields:
    return parse_fields(machine(tee, state, options).report(bytes(64), 0).outblob)[2]


@pytest.fixture(scope="module")
def snp(pki_state: Path) -> Fields:
    return fields("snp", pki_state)


@pytest.fixture(scope="module")
def tdx(pki_state: Path) -> Fields:
    return fields("tdx", pki_state)


def accepts(rules: Any, found: Fields) -> bool:
    return all(check.ok for check in evaluate(rules, found))


def test_snp_pins_measurement_guest_policy_and_tcb(snp: Fields) -> None:
    policy = draft(Tee.SNP, snp, policy_id="web", key_id="disk")
    assert (policy.policy_id, policy.key_id, policy.tee) == ("web", "disk", Tee.SNP)
    assert accepts(policy, snp)
    assert policy.rules["measurement"] == {"allow_list": [snp["measurement"]]}
    tcb = snp["reported_tcb"]
    assert accepts(policy, {**snp, "reported_tcb": {**tcb, "snp": tcb["snp"] + 1}})
    assert not accepts(policy, {**snp, "reported_tcb": {**tcb, "snp": tcb["snp"] - 1}})
    assert not accepts(policy, {**snp, "measurement": "00" * 48})
    assert not accepts(policy, {**snp, "vmpl": 1})


@pytest.mark.parametrize("bit", [18, 19, 21], ids=["migration", "debug", "cxl"])
def test_snp_forbids_what_is_forbidden_now(snp: Fields, bit: int) -> None:
    policy = draft(Tee.SNP, snp, policy_id="web", key_id="disk")
    assert not accepts(policy, {**snp, "policy": f"0x{int(snp['policy'], 16) | 1 << bit:016x}"})


def test_snp_demands_what_is_demanded_now(snp: Fields) -> None:
    single_socket = {**snp, "policy": f"0x{int(snp['policy'], 16) | 1 << 20:016x}"}
    policy = draft(Tee.SNP, single_socket, policy_id="web", key_id="disk")
    assert accepts(policy, single_socket)
    assert not accepts(policy, snp)


def test_every_bit_is_known_by_its_name(snp: Fields) -> None:
    everything = {**snp, "policy": f"0x{(1 << 26) - 1 & ~(1 << 19):016x}"}
    rules = draft(Tee.SNP, everything, policy_id="web", key_id="disk").rules["policy"]
    assert set(rules) == {"debug_allowed", *DEMANDS}
    nothing = {**snp, "policy": "0x0000000000020000"}
    assert set(draft(Tee.SNP, nothing, policy_id="web", key_id="disk").rules["policy"]) == set(PERMISSIONS)


def test_tdx_never_pins_mrtd_without_the_registers(tdx: Fields) -> None:
    policy = draft(Tee.TDX, tdx, policy_id="web", key_id="disk")
    assert accepts(policy, {**tdx, **UP})
    for name in WORKLOAD[Tee.TDX]:
        assert policy.rules["body"][name] == {"allow_list": [tdx[name]]}
        assert not accepts(policy, {**tdx, **UP, name: "00" * 48})
    assert not accepts(policy, {**tdx, **UP, "td_attributes": "01" + tdx["td_attributes"][2:]})


def test_tdx_demands_up_to_date_parts_unless_told(tdx: Fields) -> None:
    old = {"tcb": {**UP["tcb"], "platform_tcb": "OutOfDate"}}
    assert not accepts(draft(Tee.TDX, tdx, policy_id="a", key_id="k"), {**tdx, **old})
    assert accepts(draft(Tee.TDX, tdx, policy_id="a", key_id="k", tcb="OutOfDate"), {**tdx, **old})


@pytest.mark.parametrize(("tee", "options"), [("snp", GuestOptions(debug=True)), ("tdx", DomainOptions(debug=True))])
def test_below_the_floor_there_is_no_draft(tee: str, options: GuestOptions | DomainOptions, pki_state: Path) -> None:
    with pytest.raises(PolicyViolation) as caught:
        draft(Tee.SNP if tee == "snp" else Tee.TDX, fields(tee, pki_state, options), policy_id="a", key_id="k")
    assert caught.value.code == "verify.policy.floor"


@pytest.mark.parametrize("name", ["", "with space", "x" * 129])
def test_ids_are_checked(snp: Fields, name: str) -> None:
    with pytest.raises(FormatError):
        draft(Tee.SNP, snp, policy_id=name, key_id="k")


def test_remarks_say_what_is_not_covered(snp: Fields, tdx: Fields) -> None:
    for tee, found in ((Tee.SNP, snp), (Tee.TDX, tdx)):
        assert "nothing else" in remarks(tee, found)[0]
        assert "2 further states, each as a whole" in remarks(tee, found, also=2)[0]
    assert "covers the firmware" in " ".join(remarks(Tee.SNP, snp))
    assert "VMPL 2" in " ".join(remarks(Tee.SNP, {**snp, "vmpl": 2}))
