"""Quirks of hosts, firmware and vendors' services, made with the simulator: each by name, with its exact verdict.

Each goes through the verifiers and, as files, through the command line; under the simulator's root, which is marked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.core.errors import TeeAgentError, UsageError
from agent.core.model import Endorsements, ReportData, Verified
from agent.verify.endorsements import load_folder
from agent.verify.evidence import verify_vendor
from sim import quirks
from sim.export import export
from sim.keys import State
from sim.psp import CSP_ID, GuestOptions, SecureProcessor, default_measurement
from sim.qe import DomainOptions, QuotingEnclave
from snp import certtable
from snp.words import Product
from tests.support.simulator import anchor, running_simulator

DATA = bytes(range(64))
NOW = datetime.now(UTC)
Machine = SecureProcessor | QuotingEnclave
Fields = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """``code`` is the error expected, "" for none; then ``holds`` shows the quirk in the fields."""

    code: str = ""
    holds: Callable[[Fields], bool] = bool


def anonymous(fields: Fields) -> bool:
    return fields["csp_id"] == CSP_ID and not fields["chip_id"].strip("0")


def overall(status: str) -> Callable[[Fields], bool]:
    return lambda fields: bool(fields["tcb_status"] == status)


SNP = {
    "vlek": Verdict(holds=lambda f: f["csp_id"] == CSP_ID and f["chip_id"].strip("0") != ""),
    "vlek-masked-chip": Verdict(holds=anonymous),
    "vlek-masked-key": Verdict(holds=lambda f: anonymous(f) and f["mask_chip_key"] == 1),
    "masked-chip": Verdict("verify.chain.leaf"),
    "masked-key": Verdict("verify.signature"),
    "tcb-behind-certificate": Verdict("verify.chain.leaf"),
    "tcb-ahead-of-certificate": Verdict("verify.chain.leaf"),
    "reported-below-committed": Verdict(holds=lambda f: f["reported_tcb"]["snp"] == f["committed_tcb"]["snp"] - 1),
    "table-swapped": Verdict(),
    "table-pem": Verdict(),
    "table-padded": Verdict(),
    "table-garbage": Verdict("format"),
    "expired-crl": Verdict("verify.validity.crl"),
    "future-crl": Verdict("verify.validity.crl"),
    "issuer-revoked": Verdict("verify.revoked"),
    "id-block": Verdict(
        holds=lambda f: (
            (f["author_key_en"], f["guest_svn"], f["id_key_digest"][:2]) == (1, 3, "1d")
            and f["author_key_digest"] == "a0" * 48
            and bytes.fromhex(f["family_id"]).startswith(b"family")
        )
    ),
}
TDX = {
    "v5": Verdict(holds=lambda f: f["header"]["version"] == 5 and f["body_type"] == 2),
    "v5-td15": Verdict(holds=lambda f: f["body_type"] == 3 and f["tee_tcb_svn"] == f["tee_tcb_svn_2"]),
    "relaunch": Verdict(holds=overall("TDRelaunchAdvised")),
    "old-module": Verdict(holds=overall("OutOfDate")),
    "no-tcb-level": Verdict("verify.tcb.no-level"),
    "service-td": Verdict(holds=lambda f: f["mr_service_td"] == "5d" * 48),
    "sept-ve": Verdict(holds=lambda f: f["td_attributes"] == "00" * 8),
    "expired-collateral": Verdict("verify.validity"),
    "future-collateral": Verdict("verify.validity"),
    "pck-revoked": Verdict("verify.revoked"),
    "platform-ca-revoked": Verdict("verify.revoked"),
    "tcb-signer-revoked": Verdict("verify.revoked"),
    "chain-swapped": Verdict("verify.chain"),
    "length-past-end": Verdict("format.truncated"),
    "not-padded": Verdict(holds=lambda f: f["trailing_bytes"] == 0),
    "padded-garbage": Verdict("format.oversized"),
}
FLOOR = {"sept-ve": "sept-ve"}
"""Quirks that the floor refuses afterwards, and what lifts it."""
KINDS: list[tuple[str, str, Verdict]] = [
    *(("snp", name, verdict) for name, verdict in SNP.items()),
    *(("tdx", name, verdict) for name, verdict in TDX.items()),
]


def machine(tee: str, state: Path, *names: str, **options: Any) -> Machine:
    if tee == "tdx":
        return QuotingEnclave(State(state), quirks.with_quirks(DomainOptions(**options), names), NOW)
    return SecureProcessor(State(state), quirks.with_quirks(GuestOptions(**options), names), NOW)


def endorsements(made: Machine, quirk: str, auxblob: bytes) -> Endorsements:
    """Where the quirk is in the host's table, the table is all there is, but for the CRL."""
    if not quirk.startswith("table-"):
        return made.endorsements()
    return replace(certtable.certificates(auxblob), crls=made.endorsements().crls)


def test_every_quirk_of_the_simulator_has_its_verdict() -> None:
    assert (SNP.keys(), TDX.keys()) == (quirks.SNP.keys(), quirks.TDX.keys())
    assert all(name in quirks.HELP for name in (*SNP, *TDX))
    with pytest.raises(UsageError, match="unknown quirk 'relaunch'"):
        quirks.with_quirks(GuestOptions(), ["relaunch"])


@pytest.mark.parametrize(
    ("tee", "quirk", "verdict"), [pytest.param(*kind, id=f"{kind[0]}-{kind[1]}") for kind in KINDS]
)
def test_simulated_quirk(tee: str, quirk: str, verdict: Verdict, pki_state: Path) -> None:
    made = machine(tee, pki_state, quirk)
    blob = made.report(DATA, 0)
    code, fields = "", {}
    try:
        bag = endorsements(made, quirk, blob.auxblob)
        verified = verify_vendor(blob.outblob, bag, at=NOW, anchors=[anchor(made.root)], report_data=ReportData(DATA))
        fields = dict(verified.fields)
    except TeeAgentError as error:
        code = error.code
    assert code == verdict.code
    assert code or (verdict.holds(fields) and verified.added_root)


@dataclass(frozen=True)
class Tools:
    """What a test with files needs: the simulator's keys, a folder, and the command line."""

    state: Path
    folder: Path
    capsys: pytest.CaptureFixture[str]

    def verify(self, made: Machine, words: Sequence[str] = (), *, vmpl: int = 0, table: bool = False) -> Any:
        """Exit status and JSON of ``tee-agent evidence verify`` on a new report; ``table``: certificates from it only."""
        blob, exported, root = (
            made.report(DATA, vmpl),
            self.folder / "endorsements",
            self.folder / "endorsements/root.pem",
        )
        export(made, exported)
        evidence, auxblob = self.folder / "evidence.bin", self.folder / "table.bin"
        evidence.write_bytes(blob.outblob)
        auxblob.write_bytes(blob.auxblob)
        certs = ["--auxblob", str(auxblob), "--certs", str(exported / "crls")] if table else ["--certs", str(exported)]
        argv = ["evidence", "verify", str(evidence), *certs, "--trust-root", str(root), *words]
        status = main([*argv, "--at", f"{NOW:%Y-%m-%dT%H:%M:%SZ}", "--json"])
        return status, json.loads(self.capsys.readouterr().out)

    def code(self, made: Machine, *words: str, vmpl: int = 0) -> str:
        """The error code, "" for none."""
        return str((self.verify(made, words, vmpl=vmpl)[1]["error"] or {}).get("code", ""))


@pytest.fixture
def tools(pki_state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tools:
    return Tools(pki_state, tmp_path, capsys)


@pytest.mark.parametrize(
    ("tee", "quirk", "verdict"), [pytest.param(*kind, id=f"{kind[0]}-{kind[1]}") for kind in KINDS]
)
def test_simulated_quirk_on_the_command_line(tee: str, quirk: str, verdict: Verdict, tools: Tools) -> None:
    made = machine(tee, tools.state, quirk)
    lifted = ["--allow", FLOOR[quirk]] if quirk in FLOOR else []
    status, found = tools.verify(made, lifted, table=quirk.startswith("table-"))
    assert (status, (found["error"] or {}).get("code", "")) == (65 if verdict.code else 0, verdict.code)
    assert verdict.code or (verdict.holds(found["fields"]) and found["root"]["added"])


@pytest.mark.parametrize("quirk", FLOOR)
def test_simulated_quirk_that_the_floor_refuses(quirk: str, tools: Tools) -> None:
    assert tools.code(machine("tdx", tools.state, quirk)) == "verify.policy.floor"


@pytest.mark.parametrize("vmpl", [1, 2, 3])
def test_simulated_vmpl_other_than_0(vmpl: int, tools: Tools) -> None:
    made = machine("snp", tools.state)
    assert tools.code(made, vmpl=vmpl) == "verify.policy.floor"
    assert tools.code(made, "--vmpl", str(vmpl), vmpl=vmpl) == ""
    assert tools.code(made, "--allow", "vmpl", vmpl=vmpl) == ""
    assert tools.code(made, "--vmpl", str(vmpl)) == "verify.policy.floor"


@pytest.mark.parametrize("tee", ["snp", "tdx"])
def test_simulated_debug_guest(tee: str, tools: Tools) -> None:
    made = machine(tee, tools.state, debug=True)
    assert tools.code(made) == "verify.policy.floor"
    assert tools.code(made, "--allow", "debug") == ""


def test_simulated_vleks_provider_can_be_asked_for(tools: Tools) -> None:
    """A VLEK vouches for any machine of its provider: a policy may say which. A VCEK has none, and fails the rule."""
    policy = tools.folder / "policy.json"
    for names, provider, code in (
        (["vlek-masked-chip"], CSP_ID, ""),
        (["vlek-masked-chip"], "CN=another.invalid", "verify.policy"),
        ([], CSP_ID, "verify.policy"),
    ):
        rules = {"measurement": {"exact_match": default_measurement().hex()}, "csp_id": {"exact_match": provider}}
        metadata = {"policy_type": "SEV", "policy_id": "p", "key_id": "k"}
        policy.write_text(json.dumps({"metadata": metadata, "validation_rules": rules}))
        assert tools.code(machine("snp", tools.state, *names), "--policy", str(policy)) == code


@pytest.mark.parametrize("product", Product)
@pytest.mark.parametrize("names", [(), ("vlek-masked-chip",)])
def test_simulated_chip_ids_of_each_product(product: Product, names: tuple[str, ...], pki_state: Path) -> None:
    made = machine("snp", pki_state, *names, product=product, version=5)
    blob = made.report(DATA, 0).outblob
    verified = verify_vendor(blob, made.endorsements(), at=NOW, anchors=[anchor(made.root)])
    shown = 0 if names else 8 if product is Product.TURIN else 64
    chip_id = bytes.fromhex(verified.fields["chip_id"])
    assert any(chip_id[:shown]) is bool(shown)
    assert chip_id[shown:] == bytes(64 - shown)


def test_simulated_collateral_is_good_on_its_days_only(pki_state: Path) -> None:
    """Expired and future are matters of the verifier's time: the same collateral, judged 45 days apart."""
    for tee in ("snp", "tdx"):
        made = machine(tee, pki_state)

        def judged(at: datetime, made: Machine = made) -> Verified:
            blob = made.report(DATA, 0).outblob
            return verify_vendor(blob, made.endorsements(), at=at, anchors=[anchor(made.root)])

        assert judged(NOW).not_after == judged(NOW + timedelta(days=29)).not_after
        with pytest.raises(TeeAgentError) as caught:
            judged(NOW + timedelta(days=45))
        assert caught.value.code.startswith("verify.validity")


@pytest.mark.fuse
@pytest.mark.parametrize(("tee", "quirk"), [("snp", "vlek-masked-chip"), ("tdx", "relaunch")])
def test_simulated_quirk_below_the_kernel_interface(tee: str, quirk: str, pki_state: Path, tmp_path: Path) -> None:
    """The simulator as a process: what a client reads from the tree, with what the simulator exports."""
    with running_simulator(tee, tmp_path, pki_state, "--quirk", quirk) as running:
        entry = running.mount / "entry"
        entry.mkdir()
        (entry / "inblob").write_bytes(DATA)
        blob = (entry / "outblob").read_bytes()
        entry.rmdir()
        verified = verify_vendor(blob, load_folder(running.export), at=datetime.now(UTC), anchors=[running.anchor])
    assert {"snp": SNP, "tdx": TDX}[tee][quirk].holds(dict(verified.fields))
