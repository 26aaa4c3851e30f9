"""One service for several chips and platform families, its folder filled by `tee-agent endorsements fetch`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sim import pki_intel
from sim.export import Machine
from sim.keys import State, pem
from sim.psp import GuestOptions, SecureProcessor, default_measurement
from sim.qe import DomainOptions, QuotingEnclave, default_register
from snp.words import Product
from tests.support.simulator import machine
from tests.support.tas import ROOT, Prover, RunningTas, running_tas, snp_policy, tdx_policy
from tests.support.vendor import Vendor, running_vendor
from tests.support.waiting import awaited

_SECONDS = 120
REGISTERS = {name: default_register(name).hex() for name in ("rtmr0", "rtmr1", "rtmr2")}


@dataclass
class Fleet:
    """A vendor, the service's folder, the roots by file name, and every machine that has been fetched for."""

    vendor: Vendor
    base: Path
    roots: dict[str, Path] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.base / "shelf"

    def fetch(self, hardware: Machine, *words: str) -> None:
        """As an admin would, from evidence that the machine's owner sent."""
        root = self.base / f"root-{len(self.roots)}.pem"
        self.roots.setdefault(pem(hardware.root).decode(), root).write_bytes(pem(hardware.root))
        if isinstance(hardware, SecureProcessor):
            self.vendor.amd(hardware)
        else:
            self.vendor.intel(hardware, early="--early" in words)
            self.vendor.intel(hardware)
        evidence = self.base / "evidence.bin"
        evidence.write_bytes(hardware.report(bytes(64), 0).outblob)
        who = ["--kds-url", self.vendor.url, "--pcs-url", self.vendor.url, "--ca-file", str(self.vendor.authority)]
        trust = [word for path in self.roots.values() for word in ("--trust-root", str(path))]
        what = ["--evidence", str(evidence), "--out", str(self.folder), *who, *trust, *words]
        argv = [sys.executable, "-m", "agent.cli", "endorsements", "fetch", *what]
        # The next chip's certificate need not wait its ten seconds here.
        (self.folder / ".not-before.json").unlink(missing_ok=True)
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with running_vendor(tmp_path) as vendor:
        yield Fleet(vendor, tmp_path)


def enclave(state: Path, fmspc: bytes, monkeypatch: pytest.MonkeyPatch) -> QuotingEnclave:
    with monkeypatch.context() as patch:
        patch.setattr(pki_intel, "FMSPC", fmspc)
        return QuotingEnclave(State(state), DomainOptions(), datetime.now(UTC))


def reload(service: RunningTas, event: str) -> dict[str, Any]:
    """SIGHUP, and the event that it comes to."""
    assert service.process
    before = len(_reloads(service))
    service.process.send_signal(signal.SIGHUP)
    rows = awaited(lambda: _reloads(service), lambda found: len(found) > before)
    assert rows[-1]["event"] == event, rows[-1]
    return rows[-1]


def _reloads(service: RunningTas) -> list[dict[str, Any]]:
    return [row for row in service.log() if row["event"] in ("reload", "reload-failed")]


def refusal(service: RunningTas) -> str:
    code: str = [row for row in service.log() if row["event"] == "decision"][-1].get("code", "")
    return code


def enrol(service: RunningTas) -> bytes:
    service.create_secret("disk")
    service.put_policy(tdx_policy("td", "disk", {"mr_td": default_register("mr_td").hex(), **REGISTERS}))
    early = tdx_policy("early", "disk", {"mr_td": default_register("mr_td").hex(), **REGISTERS})
    early["validation_rules"]["tcb"] = {"update": "early"}
    service.put_policy(early)
    service.put_policy(snp_policy("web", "disk", default_measurement().hex()))
    return service.secret("disk")


def ask(service: RunningTas, prover: Prover, policy: str) -> int:
    return service.get_secret(prover.body(service.nonce(), policy)).status


def test_each_family_is_judged_by_its_own_collateral(
    fleet: Fleet, pki_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = [enclave(pki_state, bytes([number]) * 6, monkeypatch) for number in (1, 2, 3, 4)]
    for hardware in families[:2]:
        fleet.fetch(hardware)
    provers = [Prover(hardware) for hardware in families]
    roots = list(fleet.roots.values())
    words = ("--rate-limit", "0")
    with running_tas(tmp_path / "tas", trust_roots=roots, endorsements=fleet.folder, arguments=words) as service:
        secret = enrol(service)
        for prover in provers[:2]:
            assert prover.unwrap(service.get_secret(prover.body(service.nonce(), "td"))) == secret
        assert ask(service, provers[2], "td") == 400
        assert refusal(service) == "verify.tcb.platform"
        # Fetched and loaded while it serves.
        fleet.fetch(families[2])
        reload(service, "reload")
        assert ask(service, provers[2], "td") == 200
        # A second statement for one family: the service goes on with what it had.
        (fleet.folder / "ours").mkdir()
        other = families[2].hierarchy.tcb_info(datetime(2020, 1, 1, tzinfo=UTC)).replace(b"53494D000000", b"03" * 6)
        (fleet.folder / "ours" / "tcb_info.json").write_bytes(other)
        failed = reload(service, "reload-failed")
        assert "030303030303" in str(failed["reason"])
        assert ask(service, provers[0], "td") == 200
        assert "two different statements" in service.run("check", status=78)


def test_early_collateral_is_for_policies_that_ask_for_it(
    fleet: Fleet, pki_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (enclave(pki_state, bytes([number]) * 6, monkeypatch) for number in (1, 2))
    fleet.fetch(first, "--early")
    fleet.fetch(second)
    roots = list(fleet.roots.values())
    with running_tas(tmp_path / "tas", trust_roots=roots, endorsements=fleet.folder) as service:
        enrol(service)
        prover = Prover(first)
        assert [ask(service, prover, policy) for policy in ("td", "early")] == [200, 200]
        prover = Prover(second)
        assert [ask(service, prover, policy) for policy in ("td", "early")] == [200, 400]
        # Only the standard statement is left of the first.
        for path in fleet.folder.glob("tdx/*/*early/*.json"):
            path.unlink()
        reload(service, "reload")
        prover = Prover(first)
        assert [ask(service, prover, policy) for policy in ("td", "early")] == [200, 400]


def test_chips_of_every_product_beside_tdx(fleet: Fleet, pki_state: Path, tmp_path: Path) -> None:
    chips = [machine("snp", pki_state, GuestOptions(version=5, product=product)) for product in Product]
    chips.append(machine("snp", pki_state, GuestOptions(tcb_steps={"reported": 1})))
    domain = machine("tdx", pki_state)
    for hardware in [*chips, domain]:
        fleet.fetch(hardware)
    roots = list(fleet.roots.values())
    with running_tas(tmp_path / "tas", trust_roots=roots, endorsements=fleet.folder) as service:
        enrol(service)
        for chip in chips:
            assert ask(service, Prover(chip), "web") == 200
        assert ask(service, Prover(domain), "td") == 200
        facts = json.loads(service.run("check", "--json"))
        rows = facts["endorsements"]
        assert {row["state"] for row in rows} == {"good"}
        assert len([row for row in rows if row["kind"] == "VCEK"]) == 4
        assert not [text for text in facts["warnings"] if text.startswith("endorsements")]
        text = service.run("check")
        assert "of ARK-Turin" in text
        assert "TDX 53494d000000" in text.lower().replace("tdx", "TDX")
        # A chip whose product's CRL is gone is refused; the others are not.
        crl = fleet.folder / "snp" / "Turin" / "vcek" / "crl.der"
        os.truncate(crl, 100)
        reload(service, "reload")
        assert [ask(service, Prover(chip), "web") for chip in chips] == [200, 200, 400, 200]
