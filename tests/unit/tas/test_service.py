"""The decision, with a store that tells what it was asked: order of steps, TCB, reasons in the log."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import TcbRejected
from agent.core.model import Endorsements, Nonce, TrustAnchor, Verified
from agent.core.policy import Policy
from agent.verify.evidence import genuine_anchors
from agent.verify.shelf import Shelf
from sim.psp import default_measurement
from sim.qe import default_register
from tas.log import Log
from tas.nonces import Nonces
from tas.service import Service, require_current_tcb
from tas.store import Store, StoredPolicy
from tas.trust import Material
from tests.support.simulator import anchor, machine, pki_state
from tests.support.tas import Prover, b64, snp_policy, tdx_policy

__all__ = ["pki_state"]

REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
RULES = {name: default_register(name).hex() for name in REGISTERS}


class Listening(Store):
    """A store that notes each question."""

    asked: list[str]

    def policy(self, policy_id: str) -> StoredPolicy | None:
        self.asked.append("policy")
        return super().policy(policy_id)

    def secret(self, key_id: str) -> Any:
        self.asked.append("secret")
        return super().secret(key_id)


class ListeningNonces(Nonces):
    """The same of nonces."""

    def __init__(self, asked: list[str]) -> None:
        super().__init__()
        self.asked = asked

    def consume(self, nonce: Nonce) -> bool:
        self.asked.append("nonce")
        return super().consume(nonce)


class World:
    """A service on one simulated machine."""

    def __init__(self, folder: Path, prover: Prover, material: Material, now: datetime) -> None:
        self.store = Listening(folder / "tas.sqlite")
        nonces = ListeningNonces([])
        self.store.asked = nonces.asked
        self.prover = prover
        self.sink = io.StringIO()
        self.now = now
        self.service = Service(self.store, nonces, material, Log(self.sink), lambda: self.now)
        self.store.create_secret("disk", 32)
        self.put(snp_policy("web", "disk", default_measurement().hex()))
        self.put(tdx_policy("td", "disk", RULES))

    def put(self, document: dict[str, Any]) -> None:
        self.store.put_policy(document["metadata"]["policy_id"], json.dumps(document), replace=True)

    def ask(self, policy_id: str = "web", **changes: Any) -> tuple[int, str]:
        """Status and error text of one request, its fields changed."""
        body = self.prover.body(self.service.nonce(), policy_id)
        body |= {name.replace("_", "-"): value for name, value in changes.items()}
        answer = self.service.get_secret(body, "req-1", "192.0.2.1")
        return answer.status, answer.body.get("error", "")

    def reason(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.sink.getvalue().splitlines()[-1])
        return record


@pytest.fixture(scope="module")
def provers(pki_state: Path) -> dict[str, Prover]:
    return {tee: Prover(machine(tee, pki_state)) for tee in ("snp", "tdx")}


@pytest.fixture
def worlds(provers: dict[str, Prover], tmp_path: Path) -> Iterator[dict[str, World]]:
    made = {}
    for tee, prover in provers.items():
        folder = tmp_path / tee
        folder.mkdir()
        anchors: tuple[TrustAnchor, ...] = (*genuine_anchors(), anchor(prover.machine.root))
        material = Material(anchors, Shelf.of(prover.machine.endorsements()), b"k" * 64)
        made[tee] = World(folder, prover, material, datetime.now(UTC))
    yield made
    for world in made.values():
        world.store.close()


@pytest.fixture
def snp(worlds: dict[str, World]) -> World:
    return worlds["snp"]


@pytest.fixture
def tdx(worlds: dict[str, World]) -> World:
    return worlds["tdx"]


def test_released(snp: World, tdx: World) -> None:
    assert (snp.ask("web")[0], tdx.ask("td")[0]) == (200, 200)
    assert snp.store.asked == ["nonce", "policy", "secret"]
    record = tdx.reason()
    assert (record["verdict"], record["tcb"], record["trust"]) == ("released", "UpToDate", "added-root")
    assert (record["client"], record["policy"], record["key"]) == ("192.0.2.1", "td", "disk")
    assert record["revocation"].startswith("as of ")


@pytest.mark.parametrize(
    "nonce",
    ["policy:web", "LIMITS:LIMITER/x", "*", "' OR 1=1 --", "A" * 64, "0" * 63, "0" * 65, 7, ["0" * 64], {"a": 1}],
)
def test_nonce_of_another_form_reaches_no_store(snp: World, nonce: Any) -> None:
    assert snp.ask(nonce=nonce) == (401, "Invalid or expired nonce")
    assert snp.store.asked == []
    assert snp.store.policy("web")


def test_wrong_tee_type_reaches_no_store(snp: World) -> None:
    assert snp.ask(tee_type="x")[0] == 400
    assert snp.store.asked == []


def test_refused_evidence_never_touches_the_secret(snp: World) -> None:
    assert snp.ask(tee_evidence=b64(bytes(1184)))[0] == 400
    assert snp.ask(report_data_binding=False)[0] == 400
    assert snp.ask(policy_id="unknown")[0] == 400
    assert snp.ask(wrapping_key=b64(b"x"))[0] == 400
    assert "secret" not in snp.store.asked


def test_reason_is_in_the_log_only(snp: World) -> None:
    snp.put(snp_policy("web", "disk", "ab" * 48))
    assert snp.ask() == (400, "TEE verification failed")
    record = snp.reason()
    assert (record["request"], record["policy"], record["tee"]) == ("req-1", "web", "amd-sev-snp")
    assert record["code"] == "verify.policy"
    assert "measurement" in record["reason"]
    assert "ab" * 48 not in snp.sink.getvalue()
    assert default_measurement().hex() not in snp.sink.getvalue()


def test_clients_text_is_not_logged(snp: World) -> None:
    snp.ask(policy_id="x\n{forged}")
    snp.ask(tee_type="forged")
    snp.ask(nonce="forged")
    assert "forged" not in snp.sink.getvalue()


def test_evidence_of_the_other_kind(snp: World, tdx: World) -> None:
    assert snp.ask(tee_type="intel-tdx") == (400, "TEE verification failed")
    assert snp.reason()["code"] == "format"
    assert snp.ask("td") == (400, "TEE verification failed")
    assert tdx.ask("web") == (400, "TEE verification failed")


def test_without_added_root(snp: World, tdx: World) -> None:
    for world, policy in ((snp, "web"), (tdx, "td")):
        world.service.material = replace(world.service.material, anchors=genuine_anchors())
        assert world.ask(policy) == (400, "TEE verification failed")
        assert world.reason()["code"] == "verify.untrusted-root"


def test_certificates_out_of_date(snp: World) -> None:
    snp.now += timedelta(days=365 * 60)
    assert snp.ask() == (400, "TEE verification failed")
    assert snp.reason()["code"].startswith("verify.")


def test_tdx_without_collateral_gets_nothing(tdx: World) -> None:
    held = tdx.prover.machine.endorsements()
    bare = Endorsements(held.certificates, held.crls)
    tdx.service.material = replace(tdx.service.material, shelf=Shelf.of(bare))
    assert tdx.ask("td") == (400, "TEE verification failed")
    assert tdx.reason()["code"] == "verify.tcb"


def test_revocation_that_nobody_can_tell(snp: World, tdx: World) -> None:
    for world, policy in ((snp, "web"), (tdx, "td")):
        material = world.service.material
        world.service.material = replace(
            material, shelf=Shelf.of(replace(world.prover.machine.endorsements(), crls=()))
        )
        assert world.ask(policy) == (400, "TEE verification failed")
        assert world.reason()["code"] == "verify.revoked.unknown"
        world.service.material = replace(world.service.material, unchecked_revocation=True)
        assert world.ask(policy)[0] == 200
        assert world.reason()["revocation"] == "not checked"


def test_stored_policy_that_became_unusable(snp: World) -> None:
    snp.store.put_policy("web", '{"metadata": {}}', replace=True)
    assert snp.ask() == (400, "TEE verification failed")
    assert snp.reason()["code"] == "format.policy"


def test_debug_is_refused_though_no_policy_speaks_of_it(tmp_path: Path, pki_state: Path) -> None:
    from sim.psp import GuestOptions

    prover = Prover(machine("snp", pki_state, GuestOptions(debug=True)))
    material = Material((anchor(prover.machine.root),), Shelf.of(prover.machine.endorsements()), b"")
    world = World(tmp_path, prover, material, datetime.now(UTC))
    assert world.ask() == (400, "TEE verification failed")
    assert world.reason()["code"] == "verify.policy.floor"
    world.store.close()


def verified(worlds: dict[str, World], status: str) -> Verified:
    """Verified TDX evidence with another TCB status."""
    from agent.core import binding
    from agent.verify.evidence import verify_evidence

    world = worlds["tdx"]
    nonce = Nonce(hashlib.sha256(b"").hexdigest())
    report_data = binding.tas(nonce, b"key")
    blob = world.prover.machine.report(report_data.value, 0).outblob
    material = world.service.material
    found = verify_evidence(
        blob, material.shelf.select(blob), at=world.now, anchors=material.anchors, report_data=report_data
    )
    detail = dict.fromkeys(("tcb_level_status", "tdx_module_status", "qe_status"), status)
    return replace(found, tcb_status=status, fields={**found.fields, "tcb_status_detail": detail})


@pytest.mark.parametrize("status", ["n/a", "OutOfDate", "SWHardeningNeeded", "Revoked", "NoMatchingLevel", ""])
def test_only_a_current_tcb_will_do(worlds: dict[str, World], status: str) -> None:
    policy = Policy.parse(tdx_policy("td", "disk", RULES))
    require_current_tcb(policy, verified(worlds, "UpToDate"))
    old = verified(worlds, status)
    with pytest.raises(TcbRejected):
        require_current_tcb(policy, old)
    for part in ("tcb_level_status", "tdx_module_status", "qe_status"):
        detail = {**verified(worlds, "UpToDate").fields["tcb_status_detail"], part: status}
        with pytest.raises(TcbRejected):
            require_current_tcb(policy, replace(old, fields={**old.fields, "tcb_status_detail": detail}))


def test_policy_may_speak_of_each_part(worlds: dict[str, World]) -> None:
    document = tdx_policy("td", "disk", RULES)
    found = verified(worlds, "SWHardeningNeeded")
    document["validation_rules"]["tcb"] = {"platform_tcb": "SWHardeningNeeded", "qe_tcb": "SWHardeningNeeded"}
    with pytest.raises(TcbRejected, match="tdx_module_tcb"):
        require_current_tcb(Policy.parse(document), found)
    document["validation_rules"]["tcb"]["tdx_module_tcb"] = "SWHardeningNeeded"
    require_current_tcb(Policy.parse(document), found)
