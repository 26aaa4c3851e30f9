"""The agent's device sources against the simulated drivers: evidence that verifies, and each fault as it must be told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.errors import FirmwareBusy, FirmwareError
from agent.core.model import Evidence, ReportData
from agent.deadline import Deadline
from agent.device.node import Ioctl
from agent.device.sev import SevGuestSource
from agent.device.tdx import TdxGuestSource
from agent.quotelock import QuoteLock
from agent.tsm import KEY_LOST
from agent.verify.endorsements import from_auxblob
from agent.verify.evidence import verify_evidence
from sim.cuse import Device
from sim.devices import TdxGuest
from sim.export import Machine
from sim.faults import Faults, FaultyProvider, parse
from sim.keys import State
from sim.qe import QuotingEnclave
from sim.qgs import Service
from sim.sev_guest import SevGuest
from sim.tdreport import TdxModule
from tests.support.cuse import kernel
from tests.support.simulator import anchor, machine

DATA = ReportData(bytes(range(64)))
NODE = Path("/dev/null")
"""A character device that may be opened; its ioctls go elsewhere."""
SECONDS = 60.0


def ioctl(device: Device) -> Ioctl:
    plugged = kernel(device)

    def call(fd: int, command: int, argument: bytearray) -> None:
        plugged.ioctl(fd, command, argument)

    return call


def verifies(evidence: Evidence, hardware: Machine) -> None:
    verify_evidence(
        evidence.blob,
        hardware.endorsements(),
        at=datetime.now(UTC),
        anchors=[anchor(hardware.root)],
        report_data=DATA,
    )


class Snp:
    """A guest with a simulated /dev/sev-guest."""

    def __init__(self, state: Path, folder: Path, certificates: int) -> None:
        self.hardware, self.faults = machine("snp", state), Faults()
        device = SevGuest(FaultyProvider(self.hardware, self.faults), self.faults, b"s" * 32)
        self.source = SevGuestSource(
            NODE,
            QuoteLock(folder / "lock"),
            vmpl_file=folder / "vmpl",
            certificates=certificates,
            ioctl=ioctl(device),
            chance=lambda: 0.0,
        )

    def quote(self) -> Evidence:
        return self.source.quote(DATA, deadline=Deadline(SECONDS, "test"))


class Tdx:
    """A guest with a simulated /dev/tdx_guest, and its host's quote service on a Unix socket."""

    def __init__(self, state: Path, folder: Path) -> None:
        hardware = machine("tdx", state)
        assert isinstance(hardware, QuotingEnclave)
        self.hardware, self.faults = hardware, Faults()
        module = TdxModule(State(state), hardware)
        self.service = Service(folder / "qgs", module, self.faults)

        def connect(_: object) -> socket.socket:
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(SECONDS)
            made.connect(str(folder / "qgs"))
            return made

        self.source = TdxGuestSource(
            NODE,
            QuoteLock(folder / "lock"),
            port=0,
            ioctl=ioctl(TdxGuest(FaultyProvider(module, self.faults))),
            connect=connect,
            chance=lambda: 0.0,
        )

    def quote(self) -> Evidence:
        return self.source.quote(DATA, deadline=Deadline(SECONDS, "test"))


@pytest.fixture(params=[0, 4096, 16384])
def snp(request: pytest.FixtureRequest, pki_state: Path, tmp_path: Path) -> Snp:
    """With each size of the first buffer for certificates: none, too small, enough."""
    return Snp(pki_state, tmp_path, request.param)


@pytest.fixture
def tdx(pki_state: Path, tmp_path: Path) -> Iterator[Tdx]:
    made = Tdx(pki_state, tmp_path)
    try:
        yield made
    finally:
        made.service.close()


def test_snp_evidence_verifies(snp: Snp) -> None:
    for _ in range(2):
        evidence = snp.quote()
        verifies(evidence, snp.hardware)
        assert set(from_auxblob(evidence.auxblob).certificates) == set(snp.hardware.certificates().values())


@pytest.mark.parametrize("fault", ["no-certs", "invalid-len"])
def test_snp_evidence_without_certificates(snp: Snp, fault: str) -> None:
    snp.faults.add(parse(fault))
    evidence = snp.quote()
    assert evidence.auxblob == b""
    verifies(evidence, snp.hardware)


@pytest.mark.parametrize("fault", ["ebusy:2", "eintr:2"])
def test_snp_busy_passes(snp: Snp, fault: str) -> None:
    snp.faults.add(parse(fault))
    verifies(snp.quote(), snp.hardware)


def test_snp_refusals_are_told_apart(snp: Snp) -> None:
    codes = {"enotty:*": KEY_LOST, "einval:*": "firmware", "eio:*": "firmware.request"}
    for fault, code in codes.items():
        snp.faults.clear()
        snp.faults.add(parse(fault))
        with pytest.raises(FirmwareError) as caught:
            snp.quote()
        assert (caught.value.code, isinstance(caught.value, FirmwareBusy)) == (code, False)


def test_tdx_quote_verifies(tdx: Tdx) -> None:
    verifies(tdx.quote(), tdx.hardware)


@pytest.mark.parametrize("fault", ["ebusy:2", "eintr", "qgs-silent"])
def test_tdx_busy_passes(tdx: Tdx, fault: str) -> None:
    tdx.faults.add(parse(fault))
    verifies(tdx.quote(), tdx.hardware)


def test_tdx_the_services_error_is_told(tdx: Tdx) -> None:
    tdx.faults.add(parse("qgs-error"))
    with pytest.raises(FirmwareError, match="quote service failed") as caught:
        tdx.quote()
    assert caught.value.status == 0x12001
