"""Key documents with an audit head: believed only with evidence that some policy accepts, and compared."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agent.core import canonical, keydoc
from agent.core.model import Endorsements
from agent.core.statement import AuditHead
from agent.verify.evidence import genuine_anchors
from agent.verify.policysign import load_keys, signed
from agent.verify.shelf import Shelf
from sim.psp import default_measurement
from sim.qe import default_register
from tas.heads import HeadKeeper
from tas.headstore import HeadStore
from tas.log import Log
from tas.trust import Material
from tests.support.formats import Party
from tests.support.simulator import anchor, machine, pki_state
from tests.support.tas import snp_policy, tdx_policy

__all__ = ["pki_state"]

AT = datetime.now(UTC).replace(microsecond=0)
REGISTERS = {name: default_register(name).hex() for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}
SNP, TDX = snp_policy("web", "disk", default_measurement().hex()), tdx_policy("td", "disk", REGISTERS)


class World:
    """A service's part that keeps heads, and a machine with a key."""

    def __init__(self, folder: Path, tee: str, state: Path) -> None:
        self.party = Party.on(machine(tee, state), AT, "bundle")
        self.root = anchor(self.party.machine.root)
        shelf = Shelf.of(self.party.machine.endorsements())
        self.material = Material((*genuine_anchors(), self.root), shelf, b"k" * 64)
        self.store = HeadStore(folder / "tas.sqlite")
        self.sink = io.StringIO()
        self.now = AT
        self.keeper = HeadKeeper(self.store, Log(self.sink), lambda: self.now)
        self.put(SNP)
        self.put(TDX)

    def put(self, document: dict[str, Any]) -> None:
        self.store.put_policy(document["metadata"]["policy_id"], json.dumps(document), replace=True)

    def document(self, seq: int = 3, minutes: int = -60, name: str = "5e", **changes: Any) -> bytes:
        created = AT + timedelta(minutes=minutes)
        audit = AuditHead(seq, name * 32)
        made = replace(self.party.statement, **{"created": created, "audit": audit, **changes})
        return replace(self.party, statement=made).document()

    def keep(self, document: bytes, client: str = "192.0.2.1") -> tuple[int, str]:
        answer = self.keeper.keep(document, self.material, "req-1", client)
        return answer.status, answer.body.get("error", answer.body.get("audit_head", ""))

    def log(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.sink.getvalue().splitlines()[-1])
        return record


@pytest.fixture(params=["snp", "tdx"])
def world(request: pytest.FixtureRequest, tmp_path: Path, pki_state: Path) -> Iterator[World]:
    made = World(tmp_path, request.param, pki_state)
    yield made
    made.store.close()


@pytest.fixture
def snp(tmp_path: Path, pki_state: Path) -> Iterator[World]:
    made = World(tmp_path, "snp", pki_state)
    yield made
    made.store.close()


def test_a_head_is_kept_with_what_the_evidence_says(world: World) -> None:
    document = world.document()
    assert world.keep(document) == (200, "kept")
    assert world.keep(document) == (200, "known")
    (kept,) = world.store.heads()
    statement = world.party.statement
    assert (kept.boot_id, kept.seq, kept.head, kept.client) == (statement.boot_id, 3, "5e" * 32, "192.0.2.1")
    facts = kept.facts
    kind, _, value = kept.machine.partition(":")
    if facts["tee"] == "intel-tdx":
        assert (kind, len(value)) == ("ppid", 32)
        assert any(bytes.fromhex(value) in der for der in world.party.machine.certificates().values())
    else:
        assert (kind, value) == ("report-id", world.party.attachments().blob[0x140:0x160].hex())
    assert (facts["owner"], facts["audience"], facts["use"]) == (statement.owner, statement.audience, "bundle")
    assert facts["key_id"] == world.party.attachments(b"-").key_sha256.hex()
    assert facts["added_root"] is True
    tdx = facts["tee"] == "intel-tdx"
    assert facts["policy_id"] == ("td" if tdx else "web")
    assert set(facts["measurements"]) == {*REGISTERS, "rtmr3"} if tdx else {"measurement"}
    assert (world.log()["event"], world.log()["verdict"], world.log()["seq"]) == ("audit-head", "known", 3)


def test_a_key_without_a_log_is_kept_as_that(snp: World) -> None:
    assert snp.keep(snp.document(audit=None)) == (200, "kept")
    assert (snp.store.heads()[0].seq, snp.store.heads()[0].head) == (None, "")


def test_contradictions_are_kept_told_and_logged(snp: World) -> None:
    assert snp.keep(snp.document(9)) == (200, "kept")
    assert snp.keep(snp.document(9, name="ff", minutes=-50)) == (409, "The audit head contradicts an earlier one")
    assert snp.log()["verdict"] == "alert"
    assert snp.keep(snp.document(4, minutes=-40))[0] == 409
    assert "went back" in snp.log()["reason"]
    assert snp.store.count() == (3, 2)


def test_another_machine_can_t_denounce_this_one(snp: World, pki_state: Path) -> None:
    """Root on a machine that a policy knows writes statements about the boot of another, and sends them first."""
    rogue = replace(snp.party, machine=machine("snp", pki_state))
    statement = replace(rogue.statement, created=AT, audit=AuditHead(9, "ff" * 32))
    assert snp.keep(replace(rogue, statement=statement).document()) == (200, "kept")
    assert snp.keep(snp.document(9, minutes=-50)) == (200, "kept")
    assert snp.keep(snp.document(4, minutes=-40))[0] == 409
    assert snp.store.shared_boots() == [snp.party.statement.boot_id]


def refused(world: World, document: bytes, code: str, text: str = "TEE verification failed") -> None:
    assert world.keep(document) == (400, text)
    assert world.log()["code"].startswith(code), world.log()
    assert world.log()["verdict"] == "refused"
    assert world.store.count() == (0, 0)


def test_form(snp: World) -> None:
    refused(snp, b"{}", "format", "Invalid key document")
    refused(snp, snp.document()[:-1], "format", "Invalid key document")
    old = snp.document().replace(b"statement/v2", b"statement/v1")
    refused(snp, old, "format.version", "Invalid key document")


def test_time(snp: World) -> None:
    document = snp.document()
    snp.now = AT + timedelta(hours=9)
    refused(snp, document, "verify.validity")


def test_evidence_over_another_statement(snp: World) -> None:
    """A head that the evidence does not bind, put into a document that is good otherwise."""
    document = json.loads(snp.document(3))
    document["statement"]["audit"]["seq"] = 900
    refused(snp, canonical.encode(document), "verify.binding")


def test_a_root_that_nobody_trusts(snp: World) -> None:
    snp.material = replace(snp.material, anchors=genuine_anchors())
    refused(snp, snp.document(), "verify.untrusted-root")


def test_the_floor(snp: World) -> None:
    made = snp.party.attachments(b"-")
    debug = snp.party.machine.report(keydoc.report_data(made).value, 0, debug=True).outblob
    refused(snp, keydoc.build(replace(made, blob=debug)), "verify.policy.floor")


def test_revocation_must_be_checked(world: World) -> None:
    certificates = Endorsements(world.party.machine.endorsements().certificates)
    world.material = replace(world.material, shelf=Shelf.of(certificates))
    document = json.loads(world.document())
    document["endorsements"]["crls"] = []
    refused(world, canonical.encode(document), "verify.revoked.unknown")
    world.material = replace(world.material, unchecked_revocation=True)
    assert world.keep(canonical.encode(document)) == (200, "kept")


def test_the_service_s_own_endorsements_count(world: World) -> None:
    document = json.loads(world.document())
    document["endorsements"] |= {"crls": [], "tcb_info": "", "qe_identity": ""}
    assert world.keep(canonical.encode(document)) == (200, "kept")


def test_where_keys_are_trusted_for_policies_others_say_nothing(snp: World, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    snp.material = replace(snp.material, policy_keys=load_keys([tmp_path / "key.pub"]))
    refused(snp, snp.document(), "verify.policy")
    snp.put(signed(SNP, private))
    assert snp.keep(snp.document()) == (200, "kept")


def test_a_tcb_that_nobody_knows(tmp_path: Path, pki_state: Path) -> None:
    """A quote without TCB information satisfies the policy's rules, which say nothing of it."""
    tdx = World(tmp_path, "tdx", pki_state)
    found = tdx.party.machine.endorsements()
    tdx.material = replace(tdx.material, shelf=Shelf.of(Endorsements(found.certificates, found.crls)))
    document = json.loads(tdx.document())
    document["endorsements"] |= {"tcb_info": "", "qe_identity": ""}
    refused(tdx, canonical.encode(document), "verify.tcb")
    tdx.store.close()


def test_no_policy_knows_the_machine(world: World) -> None:
    world.put(snp_policy("web", "disk", "ab" * 48))
    world.put(tdx_policy("td", "disk", REGISTERS | {"rtmr2": "ab" * 48}))
    refused(world, world.document(), "verify.policy")
    for name in ("web", "td"):
        world.store.delete_policy(name)
    refused(world, world.document(), "verify.policy")


def test_a_policy_of_the_other_kind_knows_nothing(snp: World) -> None:
    snp.store.delete_policy("web")
    refused(snp, snp.document(), "verify.policy")


def test_any_of_several_policies_will_do(snp: World) -> None:
    snp.put(snp_policy("a-first", "disk", "ab" * 48))
    snp.store.put_policy("broken", "{}")
    assert snp.keep(snp.document()) == (200, "kept")
    assert snp.store.heads()[0].facts["policy_id"] == "web"
