"""Layers below the key's signature: an attacker signs with a key of his own, so each must hold by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core import binding
from agent.core.bundle import Payload
from agent.core.errors import (
    BindingMismatch,
    ChainInvalid,
    FormatError,
    OutOfValidity,
    Oversized,
    SignatureInvalid,
    Truncated,
    UnsupportedVersion,
    UntrustedRoot,
    VerificationError,
)
from agent.core.model import Endorsements, ReportData, Tee
from tests.support.bundles import NONCE, PAYLOAD, Signer, spki
from tests.support.bundleverdicts import AT, failed, measurements, signer, verify
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state", "signer"]
# What passes, and what it says


@pytest.mark.parametrize("fresh", [False, True])
def test_a_good_bundle_passes_and_says_under_which_root(signer: Signer, fresh: bool) -> None:
    bundle = signer.fresh_bundle() if fresh else signer.bundle()
    verdict = verify(signer, bundle, nonce=NONCE if fresh else None)
    assert verdict.verified.added_root
    assert verdict.verified.revocation.startswith("as of ")
    assert [check.number for check in verdict.checks] == list(range(1, len(verdict.checks) + 1))
    assert all(check.ok for check in verdict.checks)
    document = verdict.to_json()
    assert document["valid"] is True
    assert document["evidence"]["root"]["added"] is True
    assert (document["fresh"] is not None) is fresh
    assert ("freshness: the key's evidence may be as old as its statement" in verdict.not_checked) is not fresh


def test_everything_asked_for_leaves_nothing_of_it_unchecked(signer: Signer) -> None:
    bundle = signer.fresh_bundle()
    asked = {
        "nonce": NONCE,
        "audience": "relying.example",
        "context": "release",
        "key": hashlib.sha256(spki(signer.key)).digest(),
        "storage": frozenset({"memory"}),
        "any_workload": False,
        **measurements(signer),
    }
    verdict = verify(signer, bundle, **asked)
    silent = {what for what in verdict.not_checked if what.startswith("policy: says nothing of ")}
    assert silent
    assert set(verdict.not_checked) == {"times in the statement: the guest's own claim", *silent}


def test_what_was_not_asked_for_is_listed(signer: Signer) -> None:
    verdict = verify(signer, signer.bundle(), payload=None)
    names = ("payload", "context", "audience", "key", "storage", "nonce")
    assert {f"{name}: not compared" for name in names} <= set(verdict.not_checked)
    assert "workload: any was accepted" in verdict.not_checked


def test_without_crls_revocation_is_not_checked(signer: Signer) -> None:
    bare = replace(signer.machine.endorsements(), crls=())
    verdict = verify(signer, signer.bundle(signer.attachments(endorsements=bare)))
    assert verdict.verified.revocation == "not checked"
    assert any(what.startswith("revocation") for what in verdict.not_checked)


def test_own_collateral_supplements_the_bundles(signer: Signer) -> None:
    bare = signer.bundle(signer.attachments(endorsements=Endorsements()))
    if signer.tee is Tee.SNP:
        with pytest.raises(ChainInvalid):
            verify(signer, bare)
    verdict = verify(signer, bare, collateral=signer.machine.endorsements())
    assert verdict.verified.revocation.startswith("as of ")


# Who signed


def test_an_attackers_own_key_is_refused_by_the_binding(signer: Signer) -> None:
    genuine = signer.bundle()
    attacker = replace(signer, key=Ed25519PrivateKey.generate())
    stolen = attacker.bundle(attacker.attachments(genuine.attachments.blob))
    with pytest.raises(BindingMismatch) as caught:
        verify(signer, stolen)
    assert failed(caught.value) == "REPORT_DATA"


def test_a_genuine_key_with_another_keys_signature_is_refused(signer: Signer) -> None:
    draft = signer.bundle()
    forged = draft.signed(Ed25519PrivateKey.generate().sign(draft.signing_input()))
    with pytest.raises(SignatureInvalid) as caught:
        verify(signer, forged)
    assert failed(caught.value) == "signature of the key"


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, expires=s.expires + timedelta(hours=1)),
        lambda s: replace(s, owner="uid:1000"),
        lambda s: replace(s, audience="other.example"),
        lambda s: replace(s, storage="tas"),
        lambda s: replace(s, boot_id="00000000-0000-4000-8000-000000000000"),
        lambda s: replace(s, tas_nonce="0" * 64),
        lambda s: replace(s, time_source="tas"),
        lambda s: replace(s, agent_version="9"),
    ],
)
def test_even_the_key_itself_cant_change_its_statement(signer: Signer, change: Callable[[Any], Any]) -> None:
    blob = signer.bundle().attachments.blob
    other = replace(signer, statement=change(signer.statement))
    with pytest.raises(BindingMismatch) as caught:
        verify(signer, other.bundle(other.attachments(blob)))
    assert failed(caught.value) == "REPORT_DATA"


def test_evidence_for_another_purpose_is_refused(signer: Signer) -> None:
    purposes = [
        binding.tls_key(signer.scope, spki(signer.key), signer.statement.digest()),
        binding.collect(signer.scope, NONCE),
        binding.compat(signer.scope, "any", spki(signer.key)),
        ReportData(hashlib.sha512(spki(signer.key)).digest()),
        ReportData(bytes(64)),
    ]
    for report_data in purposes:
        with pytest.raises(BindingMismatch):
            verify(signer, signer.bundle(signer.attachments(signer.quote(report_data))))


def test_a_key_for_another_use_is_refused(pki_state: Path) -> None:
    for changes in ({"use": "raw"}, {"use": "internal"}, {"algorithm": "ES256"}):
        other = Signer.on(machine("snp", pki_state), AT, **changes)
        with pytest.raises(VerificationError) as caught:
            verify(other, other.bundle())
        assert failed(caught.value) == "use of the key"


def test_a_root_that_nobody_added_is_refused(signer: Signer) -> None:
    with pytest.raises(UntrustedRoot):
        verify(signer, signer.bundle(), anchors=None)


# Evidence, changed under a signature that holds


def test_every_byte_of_the_evidence_counts(signer: Signer) -> None:
    """The attacker holds a genuine key (say, a compromised guest) and re-signs what he changed."""
    genuine = signer.bundle()
    blob = genuine.attachments.blob
    for position in range(0, len(blob), 7):
        changed = blob[:position] + bytes([blob[position] ^ 0x10]) + blob[position + 1 :]
        with pytest.raises((FormatError, VerificationError)):
            verify(signer, signer.bundle(signer.attachments(changed)))


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda blob: blob[:-1], Truncated),
        (lambda blob: blob[:5], Truncated),
        (lambda blob: blob + b"x", Oversized),
        (lambda blob: b"\x7f" + blob[1:], UnsupportedVersion),
        (lambda _: b"neither one nor the other", FormatError),
    ],
)
def test_damaged_evidence_has_its_own_error(
    signer: Signer, damage: Callable[[bytes], bytes], error: type[Exception]
) -> None:
    with pytest.raises(error):
        verify(signer, signer.bundle(signer.attachments(damage(signer.bundle().attachments.blob))))


def test_a_padded_quote_is_refused(pki_state: Path) -> None:
    signer = Signer.on(machine("tdx", pki_state), AT)
    padded = signer.machine.report(signer.key_report_data().value, 0).outblob
    with pytest.raises(FormatError, match="padded"):
        verify(signer, signer.bundle(signer.attachments(padded)))


def test_the_bundle_must_name_its_kind_of_evidence(signer: Signer) -> None:
    other = Tee.TDX if signer.tee is Tee.SNP else Tee.SNP
    with pytest.raises(FormatError, match="not of"):
        verify(signer, signer.bundle(replace(signer.attachments(), tee=other)))


# Time


def test_a_statement_has_its_time(signer: Signer) -> None:
    bundle, statement = signer.bundle(), signer.statement
    second = timedelta(seconds=1)
    skew = timedelta(minutes=3)
    for at in (statement.created - skew, statement.expires + skew):
        verify(signer, bundle, at=at, skew=skew)
    for at in (statement.created - skew - second, statement.expires + skew + second):
        with pytest.raises(OutOfValidity) as caught:
            verify(signer, bundle, at=at, skew=skew)
        assert failed(caught.value) == "statement in force"


# What was asked for


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("payload", b"something else"),
        ("payload", Payload(hashlib.sha512(PAYLOAD).digest(), len(PAYLOAD) + 1)),
        ("context", "other"),
        ("context", ""),
        ("audience", "other"),
        ("key", bytes(32)),
        ("storage", frozenset({"tas", "snp-derived"})),
        ("nonce", NONCE + b"2"),
    ],
)
def test_what_differs_from_what_was_asked_is_refused(signer: Signer, name: str, value: object) -> None:
    with pytest.raises(BindingMismatch) as caught:
        verify(signer, signer.fresh_bundle(), **{name: value})
    assert failed(caught.value) == name


def test_a_nonce_needs_a_fresh_bundle(signer: Signer) -> None:
    with pytest.raises(BindingMismatch, match="not fresh"):
        verify(signer, signer.bundle(), nonce=NONCE)
