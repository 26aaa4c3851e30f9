"""Key documents: what passes, what each check refuses, every flipped bit, every truncation."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.core import keydoc
from agent.core.algorithm import ALGORITHMS
from agent.core.errors import (
    BindingMismatch,
    FormatError,
    OutOfValidity,
    Oversized,
    PolicyViolation,
    UnsupportedVersion,
    UntrustedRoot,
    UsageError,
    VerificationError,
)
from agent.core.model import Tee
from agent.core.policy import Policy
from agent.core.statement import STORAGES, USES
from agent.daemon.privatekey import PrivateKey
from agent.verify.keydoc import verify_key
from agent.verify.signedtext import key_lines
from agent.verify.workload import Workload
from tests.support.formats import Party
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]
AT = datetime.now(UTC)


@pytest.fixture(scope="module", params=["snp", "tdx"])
def party(request: pytest.FixtureRequest, pki_state: Path) -> Party:
    return Party.on(machine(request.param, pki_state), AT, "raw")


def test_a_good_key_passes_and_says_what_was_not_checked(party: Party) -> None:
    verdict = verify_key(party.document(), party.judge(AT))
    assert verdict.attachments.spki == party.spki
    assert all(check.ok for check in verdict.checks)
    assert [check.number for check in verdict.checks] == list(range(1, len(verdict.checks) + 1))
    left_out = {"use: not compared", "key: not compared", "workload: any was accepted"}
    left_out |= {"times in the statement: the guest's own claim"}
    left_out |= {"freshness: the key's evidence may be as old as its statement"}
    assert left_out <= set(verdict.not_checked)
    better = replace(party, statement=replace(party.statement, time_source="tas", tas_nonce="0a" * 32))
    assert not [what for what in verify_key(better.document(), party.judge(AT)).not_checked if "times" in what]
    said = verdict.to_json()
    assert (said["valid"], said["kind"], said["statement"]["use"]) == (True, "key document", "raw")
    assert said["evidence"]["root"]["added"] is True
    asked = replace(party.judge(AT), key=party.attachments(b"-").key_sha256)
    assert not {"use: not compared", "key: not compared"} & set(
        verify_key(party.document(), asked, use="raw").not_checked
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm(algorithm: str, pki_state: Path) -> None:
    party = Party.on(machine("snp", pki_state), AT, "raw", algorithm)
    verdict = verify_key(party.document(), party.judge(AT), use="raw")
    assert verdict.to_json()["key"]["algorithm"] == algorithm


def test_another_use_is_refused(party: Party) -> None:
    for use in USES - {"raw"}:
        with pytest.raises(VerificationError, match="for raw"):
            verify_key(party.document(), party.judge(AT), use=use)


def test_another_key_or_statement_is_not_in_the_evidence(party: Party) -> None:
    blob = party.attachments().blob
    stolen = replace(party, private=PrivateKey(party.private.algorithm))
    later = replace(party, statement=replace(party.statement, expires=party.statement.expires + timedelta(hours=1)))
    for other in (stolen, later, replace(party, statement=replace(party.statement, use="jws"))):
        with pytest.raises(BindingMismatch) as caught:
            verify_key(keydoc.build(other.attachments(blob)), party.judge(AT))
        assert caught.value.checks[-1].name == "REPORT_DATA"


def test_a_statement_for_another_algorithm_is_refused(pki_state: Path) -> None:
    party = Party.on(machine("snp", pki_state), AT, "raw")
    lying = replace(party, statement=replace(party.statement, algorithm="ECDSA-P256"))
    with pytest.raises(VerificationError, match="the statement says ECDSA-P256 for raw, not Ed25519"):
        verify_key(lying.document(), party.judge(AT))


@pytest.mark.parametrize("kept", sorted(STORAGES))
def test_where_the_key_is_kept_is_bound_by_the_evidence_and_compared(party: Party, kept: str) -> None:
    party = replace(party, statement=replace(party.statement, storage=kept))
    document, judge = party.document(), party.judge(AT)
    verdict = verify_key(document, judge)
    assert "storage: not compared" in verdict.not_checked
    assert verdict.to_json()["statement"]["storage"] == kept
    assert any(f"kept ({kept})" in line for line in key_lines(verdict, ""))
    for asked in (frozenset({kept}), STORAGES):
        verdict = verify_key(document, replace(judge, storage=asked))
        assert "storage" in [check.name for check in verdict.checks]
        assert "storage: not compared" not in verdict.not_checked
    for asked in (STORAGES - {kept}, frozenset(), frozenset({"disk"})):
        with pytest.raises(BindingMismatch, match=f"the key's storage is {kept}, not") as caught:
            verify_key(document, replace(judge, storage=asked))
        assert caught.value.checks[-1].name == "storage"
    for other in STORAGES - {kept}:
        flipped = document.replace(b'"storage":"%b"' % kept.encode(), b'"storage":"%b"' % other.encode())
        assert flipped != document
        with pytest.raises(BindingMismatch) as caught:
            verify_key(flipped, replace(judge, storage=frozenset({other})))
        assert caught.value.checks[-1].name == "REPORT_DATA"


def test_time_key_root_and_workload(party: Party) -> None:
    document, judge = party.document(), party.judge(AT)
    with pytest.raises(OutOfValidity):
        verify_key(document, replace(judge, at=AT + timedelta(hours=9)))
    with pytest.raises(BindingMismatch, match="the key is sha256:"):
        verify_key(document, replace(judge, key=bytes(32)))
    with pytest.raises(UntrustedRoot):
        verify_key(document, replace(judge, anchors=None))
    tee = party.attachments(b"-").tee
    names = ("measurement",) if tee is Tee.SNP else ("mr_td", "rtmr0", "rtmr1", "rtmr2")
    other = Policy.pinning(tee, dict.fromkeys(names, bytes(48)))
    with pytest.raises(PolicyViolation):
        verify_key(document, replace(judge, workload=Workload(policy=other)))
    with pytest.raises(UsageError):
        Workload()


def test_the_document_must_name_its_kind_of_evidence(party: Party, pki_state: Path) -> None:
    other = Party.on(machine("tdx" if party.attachments(b"-").tee is Tee.SNP else "snp", pki_state), AT, "raw")
    swapped = replace(party.attachments(), tee=other.attachments(b"-").tee)
    with pytest.raises(FormatError, match="the evidence is not of"):
        verify_key(keydoc.build(swapped), party.judge(AT))


def test_a_padded_quote_is_refused(pki_state: Path) -> None:
    party = Party.on(machine("tdx", pki_state), AT, "raw")
    padded = party.machine.report(keydoc.report_data(party.attachments()).value, 0).outblob
    with pytest.raises(FormatError, match="padded"):
        verify_key(keydoc.build(party.attachments(padded)), party.judge(AT))


def test_one_byte_form_only(party: Party) -> None:
    document = party.document()
    assert keydoc.build(keydoc.decode(document)) == document
    loose = json.dumps(json.loads(document)).encode()
    for data in (document + b"\n", b" " + document, loose, document.replace(b'{"end', b'{"a":1,"end', 1), b"{}"):
        with pytest.raises(FormatError):
            keydoc.decode(data)
    with pytest.raises(UnsupportedVersion):
        keydoc.decode(document.replace(b"key/v1", b"key/v2"))
    with pytest.raises(Oversized):
        keydoc.decode(b" " * (keydoc.MAX_BYTES + 1))
