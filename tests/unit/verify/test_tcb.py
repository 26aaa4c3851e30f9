"""What counts as another TCB, over simulated evidence of both kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.model import Tee
from agent.verify.evidence import unpadded
from agent.verify.tcb import UNKNOWN, changed, tcb_of
from sim.psp import GuestOptions
from sim.qe import DomainOptions
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]

TD15 = DomainOptions(version=5, td15=True)


def tcb(tee: str, state: Path, options: GuestOptions | DomainOptions | None = None, data: bytes = bytes(64)) -> bytes:
    blob = unpadded(machine(tee, state, options).report(data, 0).outblob)
    return tcb_of(Tee.SNP if tee == "snp" else Tee.TDX, blob)


@pytest.mark.parametrize("tee", ["snp", "tdx"])
def test_the_same_machine_has_the_same(pki_state: Path, tee: str) -> None:
    before = tcb(tee, pki_state)
    assert before != UNKNOWN
    assert not changed(before, tcb(tee, pki_state, data=b"\1" * 64))


@pytest.mark.parametrize("which", ["current", "reported", "committed", "launch"])
def test_each_version_of_a_report_counts(pki_state: Path, which: str) -> None:
    assert changed(tcb("snp", pki_state), tcb("snp", pki_state, GuestOptions(tcb_steps={which: 1})))


def test_the_module_of_a_quote_counts(pki_state: Path) -> None:
    assert changed(tcb("tdx", pki_state), tcb("tdx", pki_state, DomainOptions(launch_steps=1)))
    before = tcb("tdx", pki_state, TD15)
    now = DomainOptions(version=5, td15=True, svn_steps=1, launch_steps=-1)
    assert changed(before, tcb("tdx", pki_state, now))


def test_what_can_not_be_read_is_neither_the_same_nor_another(pki_state: Path) -> None:
    for blob in (b"", b"\0" * 1184, b"no evidence"):
        for tee in Tee:
            assert tcb_of(tee, blob) == UNKNOWN
    assert not changed(tcb("snp", pki_state), UNKNOWN)
    assert not changed(UNKNOWN, tcb("snp", pki_state))


@pytest.mark.parametrize("tee", ["snp", "tdx"])
def test_a_host_that_updates_its_firmware(pki_state: Path, tee: str) -> None:
    made = machine(tee, pki_state)
    before, after = (unpadded(made.report(bytes(64), 0, tcb_steps=steps).outblob) for steps in (0, 1))
    kind = Tee.SNP if tee == "snp" else Tee.TDX
    assert changed(tcb_of(kind, before), tcb_of(kind, after))
