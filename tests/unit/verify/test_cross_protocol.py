"""For every pair of uses: what a key for one signs is refused where another is expected, by every verifier.

The statement decides it, and evidence binds the statement. Here the attacker owns the key and makes each format with it;
what he can't have is evidence over another statement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core import cbor, cmw, cose, eat, jws, keydoc, sshsig
from agent.core.bundle import Bundle, Payload
from agent.core.errors import BindingMismatch, FormatError, TeeAgentError, VerificationError
from agent.core.statement import USES
from agent.verify.bundle import verify_bundle
from agent.verify.cose import verify_cose
from agent.verify.eat import verify_eat
from agent.verify.jws import verify_jws
from agent.verify.keydoc import verify_key
from agent.verify.ssh import verify_ssh
from tests.support.formats import AUDIENCE, CONTEXT, PAYLOAD, Party
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]
AT = datetime.now(UTC).replace(microsecond=0)
Verify = Callable[[Party, bytes], object]


@dataclass(frozen=True)
class Format:
    """One format: the use that it wants, how it is made by any key, how it is verified."""

    use: str
    make: Callable[[Party], bytes]
    verify: Verify


def bundle(party: Party) -> bytes:
    draft = Bundle(Payload.of(PAYLOAD), CONTEXT, AUDIENCE, party.attachments())
    return draft.signed(party.private.sign(draft.signing_input())).encode()


def token(form: str) -> Callable[[Party], bytes]:
    """The builder refuses keys for anything else: a token by one for EAT, with the other's document put inside."""

    def make(party: Party) -> bytes:
        willing = replace(party, statement=replace(party.statement, use=eat.USE))
        made = willing.eat(AT, form)
        document, honest = eat.decode(made).document, party.document()
        assert keydoc.decode(document).statement.use == eat.USE
        return resigned(party, made, document, honest)

    return make


def resigned(party: Party, made: bytes, old: bytes, new: bytes) -> bytes:
    """The token with another key document inside, signed anew."""
    if made[:1] == b"\xd2":
        found = cose.decode_sign1(made, eat.MAX_BYTES)
        claims = cbor_replaced(found.payload or b"", old, new)
        return cose.build_sign1(party.private.sign, party.spki, {eat.COSE_TYP: eat.CWT_TYPE}, claims)
    payload = jws.decode_compact(made, eat.MAX_BYTES).payload
    claims = payload.replace(jws.b64url(old).encode(), jws.b64url(new).encode())
    return jws.build_compact(party.private.sign, party.spki, {"typ": eat.JWT_TYPE}, claims)


def cbor_replaced(payload: bytes, old: bytes, new: bytes) -> bytes:
    claims: dict[Any, Any] = cbor.decode(payload, "claims", eat.MAX_BYTES)
    assert claims[cmw.CWT_CLAIM][1] == old
    return cbor.encode(claims | {cmw.CWT_CLAIM: cmw.to_cbor(new)})


FORMATS = {
    "bundle": Format("bundle", bundle, lambda party, data: verify_bundle(data, party.judge(AT))),
    "jws": Format("jws", Party.jws, lambda party, data: verify_jws(data, party.document(), party.judge(AT))),
    "cose": Format("cose", Party.cose, lambda party, data: verify_cose(data, party.document(), party.judge(AT))),
    "ssh": Format(
        "ssh", Party.ssh, lambda party, data: verify_ssh(data, party.document(), party.judge(AT), payload=[PAYLOAD])
    ),
    "eat-json": Format("eat", token(eat.JSON), lambda party, data: verify_eat(data, party.judge(AT))),
    "eat-cbor": Format("eat", token(eat.CBOR), lambda party, data: verify_eat(data, party.judge(AT))),
}


@pytest.mark.parametrize("use", sorted(USES))
@pytest.mark.parametrize("name", FORMATS)
def test_a_format_passes_only_under_its_own_use(name: str, use: str, pki_state: Path) -> None:
    party, wanted = Party.on(machine("snp", pki_state), AT, use), FORMATS[name]
    data = wanted.make(party)
    if use == wanted.use:
        wanted.verify(party, data)
        return
    with pytest.raises(VerificationError, match=f"for {use}, not Ed25519 for {wanted.use}") as caught:
        wanted.verify(party, data)
    assert caught.value.checks[-1].name == "use of the key"


@pytest.mark.parametrize("use", sorted(USES))
@pytest.mark.parametrize("name", FORMATS)
def test_no_other_statement_for_the_same_key_and_evidence(name: str, use: str, pki_state: Path) -> None:
    """What the use check would let pass: the document says the wanted use, and the evidence says it does not."""
    wanted = FORMATS[name]
    if use == wanted.use:
        return
    party = Party.on(machine("snp", pki_state), AT, use)
    blob = party.attachments().blob

    class Lying(Party):
        def attachments(self, _: bytes | None = None) -> Any:
            return super().attachments(blob)

    liar = Lying(party.machine, party.private, replace(party.statement, use=wanted.use))
    with pytest.raises(BindingMismatch) as caught:
        wanted.verify(liar, wanted.make(liar))
    assert caught.value.checks[-1].name == "REPORT_DATA"


@pytest.mark.parametrize("made_as", FORMATS)
@pytest.mark.parametrize("taken_for", FORMATS)
def test_no_format_passes_for_another(made_as: str, taken_for: str, pki_state: Path) -> None:
    if made_as == taken_for:
        return
    for use in {FORMATS[made_as].use, FORMATS[taken_for].use}:
        party = Party.on(machine("snp", pki_state), AT, use)
        data = FORMATS[made_as].make(party)
        if {made_as, taken_for} == {"eat-json", "eat-cbor"}:
            continue  # one verifier takes both
        with pytest.raises(FormatError):
            FORMATS[taken_for].verify(party, data)


@pytest.mark.parametrize("use", sorted(USES))
def test_a_key_document_is_for_its_own_use(use: str, pki_state: Path) -> None:
    party = Party.on(machine("snp", pki_state), AT, use)
    document = party.document()
    for wanted in sorted(USES):
        if wanted == use:
            assert verify_key(document, party.judge(AT), use=wanted).attachments.statement.use == use
            continue
        with pytest.raises(VerificationError):
            verify_key(document, party.judge(AT), use=wanted)
    for known in FORMATS.values():
        with pytest.raises(TeeAgentError):
            known.verify(party, document)


def test_a_payload_that_is_another_formats_signing_input(pki_state: Path) -> None:
    """Whatever a caller has signed in one format, its signature is none in another: the signed bytes never meet."""
    party = Party.on(machine("snp", pki_state), AT, "jws")
    draft = Bundle(Payload.of(PAYLOAD), CONTEXT, AUDIENCE, party.attachments())
    protected = cose.decode(party.cose()).sign1.protected
    inputs = {
        "bundle": draft.signing_input(),
        "jws": jws.decode(party.jws()).compact.signing_input,
        "cose": cose.sig_structure(protected, PAYLOAD),
        "ssh": sshsig.decode(party.ssh()).signed(hashlib.sha512(PAYLOAD).digest()).encode(),
    }
    firsts = {name: data[:2] for name, data in inputs.items()}
    assert firsts == {"bundle": b"te", "jws": b"ey", "cose": b"\x84j", "ssh": b"SS"}
    for data in inputs.values():
        wrapped = jws.decode(party.jws(data)).compact
        assert wrapped.signing_input not in inputs.values()
        with pytest.raises(VerificationError):
            verify_bundle(draft.signed(wrapped.signature).encode(), party.judge(AT))
