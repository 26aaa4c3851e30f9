"""Evidence from the mounted tree, judged with the exported endorsements: believed under the simulator's root only."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.errors import BindingMismatch, FormatError, PolicyViolation, SignatureInvalid, Truncated, UntrustedRoot
from agent.core.model import ReportData, Tee, Verified
from agent.core.policy import Floor
from agent.verify.endorsements import from_auxblob, load_folder
from agent.verify.evidence import anchor_from_pem, verify_evidence
from sim.psp import default_measurement
from sim.qe import default_register
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse
DATA = bytes(range(64))


def quote(simulator: Simulator, data: bytes = DATA) -> tuple[bytes, bytes]:
    """outblob and auxblob, as a client gets them."""
    entry = simulator.mount / "entry"
    entry.mkdir()
    try:
        (entry / "inblob").write_bytes(data)
        auxblob = entry / "auxblob"
        return (entry / "outblob").read_bytes(), auxblob.read_bytes() if auxblob.exists() else b""
    finally:
        entry.rmdir()


def judge(simulator: Simulator, blob: bytes, floor: Floor | None = None) -> Verified:
    anchor = anchor_from_pem(simulator.root_pem.read_bytes(), "simulator")
    assert anchor.spki_sha256 == simulator.anchor.spki_sha256
    return verify_evidence(
        blob,
        load_folder(simulator.export),
        at=datetime.now(UTC),
        anchors=[anchor],
        report_data=ReportData(DATA),
        floor=floor,
    )


@pytest.mark.parametrize(
    ("product", "version"),
    [("milan", 2), ("genoa", 2), ("milan", 3), ("genoa", 3), ("turin", 3), ("milan", 5), ("genoa", 5), ("turin", 5)],
)
def test_snp(tmp_path: Path, pki_state: Path, product: str, version: int) -> None:
    options = ["--product", product, "--report-version", str(version)]
    with running_simulator("snp", tmp_path, pki_state, *options) as running:
        blob, auxblob = quote(running)
        verified = judge(running, blob)
        assert (verified.tee, verified.version, verified.added_root) == (Tee.SNP, version, True)
        assert verified.fields["measurement"] == default_measurement().hex()
        assert verified.revocation.startswith("as of ")
        with pytest.raises(UntrustedRoot):
            verify_evidence(blob, load_folder(running.export), at=datetime.now(UTC))
        exported = load_folder(running.export)
        assert set(from_auxblob(auxblob).certificates) == set(exported.certificates)


def test_tdx(tmp_path: Path, pki_state: Path) -> None:
    with running_simulator("tdx", tmp_path, pki_state) as running:
        blob, auxblob = quote(running)
        assert auxblob == b""
        verified = judge(running, blob)
        assert (verified.tee, verified.version, verified.added_root) == (Tee.TDX, 4, True)
        assert verified.tcb_status == "UpToDate"
        assert verified.fields["mr_td"] == default_register("mr_td").hex()
        assert verified.revocation.startswith("as of ")
        with pytest.raises(UntrustedRoot):
            verify_evidence(blob, load_folder(running.export), at=datetime.now(UTC))


@pytest.mark.parametrize("tee", ["snp", "tdx"])
def test_damage_is_found(tmp_path: Path, pki_state: Path, tee: str) -> None:
    with running_simulator(tee, tmp_path, pki_state) as running:
        blob, _ = quote(running)
        judge(running, blob)
        at = 0x90 if tee == "snp" else 48 + 136
        with pytest.raises(SignatureInvalid):
            judge(running, blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :])
        with pytest.raises(BindingMismatch):
            judge(running, quote(running, bytes(64))[0])
        running.fault("short-read:1:100")
        with pytest.raises(Truncated):
            judge(running, quote(running)[0])
        with pytest.raises(FormatError):
            judge(running, b"")


@pytest.mark.parametrize("tee", ["snp", "tdx"])
def test_a_debug_guest_passes_only_where_the_floor_is_lifted(tmp_path: Path, pki_state: Path, tee: str) -> None:
    with running_simulator(tee, tmp_path, pki_state, "--debug-guest") as running:
        blob, _ = quote(running)
        with pytest.raises(PolicyViolation):
            judge(running, blob)
        judge(running, blob, Floor(allow=frozenset({"debug"})))


def test_measurements_from_the_command_line(tmp_path: Path, pki_state: Path) -> None:
    digest = "ab" * 48
    with running_simulator("snp", tmp_path, pki_state, "--measurement", digest) as running:
        assert judge(running, quote(running)[0]).fields["measurement"] == digest
    registers = {
        name: f"{index:02x}" * 48 for index, name in enumerate(("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), 1)
    }
    options = [word for name, value in registers.items() for word in (f"--{name}", value)]
    with running_simulator("tdx", tmp_path, pki_state, *options) as running:
        fields = judge(running, quote(running)[0]).fields
        assert [fields[name] for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")] == list(registers.values())


def test_simulators_share_a_root_through_their_state(tmp_path: Path, pki_state: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        running_simulator("snp", tmp_path / "one", pki_state) as one,
        running_simulator("snp", tmp_path / "two", pki_state) as two,
    ):
        assert one.root_pem.read_bytes() == two.root_pem.read_bytes()
        judge(replace(two, export=one.export), quote(two)[0])


def test_another_simulators_root_is_not_ours(tmp_path: Path, pki_state: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        running_simulator("tdx", tmp_path / "one", pki_state) as one,
        running_simulator("tdx", tmp_path / "two", tmp_path / "state") as two,
        pytest.raises(UntrustedRoot),
    ):
        judge(one, quote(two)[0])
