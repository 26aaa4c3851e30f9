"""Bundles and the workload: it has to be said, in one way, and must be the one that runs; the floor is always on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import PolicyViolation, UsageError
from agent.core.model import Tee
from agent.core.policy import Floor, Policy
from sim.psp import GuestOptions
from sim.qe import DomainOptions
from tests.support.bundles import Signer
from tests.support.bundleverdicts import AT, failed, measurements, signer, verify
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state", "signer"]


def test_the_workload_has_to_be_said_in_one_way(signer: Signer) -> None:
    bundle = signer.bundle()
    for given in ({}, {"measurement": b"x" * 48, "any_workload": True}, {"mrtd": b"x" * 48, "any_workload": True}):
        with pytest.raises(UsageError, match="which workload"):
            verify(signer, bundle, **{"any_workload": False, **given})


def test_measurements_must_fit(signer: Signer) -> None:
    found = measurements(signer)
    verify(signer, signer.bundle(), any_workload=False, **found)
    wrong = {name: bytes(48) if isinstance(value, bytes) else value for name, value in found.items()}
    with pytest.raises(PolicyViolation) as caught:
        verify(signer, signer.bundle(), any_workload=False, **wrong)
    assert failed(caught.value).startswith("policy: ")


def test_mrtd_without_its_rtmrs_is_refused(pki_state: Path) -> None:
    signer = Signer.on(machine("tdx", pki_state), AT)
    found = measurements(signer)
    for rtmrs in ({}, {0: found["rtmrs"][0]}, {**found["rtmrs"], 4: bytes(48)}):
        with pytest.raises(UsageError, match="RTMR0, 1 and 2"):
            verify(signer, signer.bundle(), any_workload=False, mrtd=found["mrtd"], rtmrs=rtmrs)
    other = {**found["rtmrs"], 2: bytes(48)}
    with pytest.raises(PolicyViolation, match="rtmr2"):
        verify(signer, signer.bundle(), any_workload=False, mrtd=found["mrtd"], rtmrs=other)


def test_the_other_platforms_measurement_is_a_usage_error(signer: Signer) -> None:
    wrong: dict[str, Any] = {"mrtd": bytes(48)} if signer.tee is Tee.SNP else {"measurement": bytes(48)}
    with pytest.raises(UsageError, match="the evidence is"):
        verify(signer, signer.bundle(), any_workload=False, **wrong)


def test_measurements_have_48_bytes(signer: Signer) -> None:
    short = {name: value[:-1] if isinstance(value, bytes) else value for name, value in measurements(signer).items()}
    with pytest.raises(UsageError, match="48 bytes"):
        verify(signer, signer.bundle(), any_workload=False, **short)


def test_a_better_clock_than_the_guests_is_said(pki_state: Path) -> None:
    signer = Signer.on(machine("snp", pki_state), AT, time_source="tas", tas_nonce="0a" * 32)
    verdict = verify(signer, signer.bundle())
    assert not [what for what in verdict.not_checked if what.startswith("times")]


def test_a_policy_applies(signer: Signer) -> None:
    found = measurements(signer)
    values = {"measurement": found["measurement"]} if signer.tee is Tee.SNP else {"mr_td": found["mrtd"]}
    values |= {f"rtmr{index}": value for index, value in found.get("rtmrs", {}).items()}
    policy = Policy.pinning(signer.tee, values)
    verdict = verify(signer, signer.bundle(), any_workload=False, policy=policy)
    assert not [what for what in verdict.not_checked if what.startswith(("policy: not", "policy: sig", "workload"))]


@pytest.mark.parametrize(("tee", "options"), [("snp", GuestOptions(debug=True)), ("tdx", DomainOptions(debug=True))])
def test_a_debuggable_guest_is_below_the_floor(
    tee: str, options: GuestOptions | DomainOptions, pki_state: Path
) -> None:
    signer = Signer.on(machine(tee, pki_state, options), AT)
    with pytest.raises(PolicyViolation) as caught:
        verify(signer, signer.bundle())
    assert failed(caught.value) == "floor: debug"
    verdict = verify(signer, signer.bundle(), floor=Floor(allow=frozenset({"debug"})))
    assert "floor: debug (lifted by name)" in verdict.not_checked
