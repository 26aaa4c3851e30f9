"""EAT, JSON and CBOR: joserfc and pycose verify the signatures, ours judges the token with the evidence inside."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import cbor, cmw, cose, eat, jws, keydoc
from agent.core.algorithm import ALGORITHMS
from agent.core.errors import (
    BindingMismatch,
    FormatError,
    OutOfValidity,
    SignatureInvalid,
    UntrustedRoot,
    UsageError,
    VerificationError,
)
from agent.daemon.privatekey import PrivateKey
from agent.verify.eat import verify_eat
from tests.support import judges
from tests.support.eats import AT, FORMS, forge
from tests.support.formats import AUDIENCE, NONCE, Party
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]


@pytest.fixture(scope="module", params=ALGORITHMS)
def party(request: pytest.FixtureRequest, pki_state: Path) -> Party:
    return Party.on(machine("tdx" if "384" in request.param else "snp", pki_state), AT, "eat", request.param)


@pytest.fixture(scope="module")
def made(party: Party) -> dict[str, bytes]:
    attachments = party.attachments()
    return {form: party.eat(AT, form, attachments) for form in FORMS}


def test_independent_libraries_verify_it(party: Party, made: dict[str, bytes]) -> None:
    token = judges.joserfc(party.spki, made[eat.JSON])
    claims = json.loads(token.payload or b"")
    assert token.headers()["typ"] == "eat+jwt"
    assert (claims["aud"], claims["eat_nonce"]) == (AUDIENCE, jws.b64url(NONCE))
    assert judges.pycose(party.spki, made[eat.CBOR])
    protected, _, payload, _ = cbor2.loads(made[eat.CBOR][1:])
    assert cbor2.loads(protected)[16] == "application/eat+cwt"
    found = cbor2.loads(payload)
    assert (found[3], found[10], found[265]) == (AUDIENCE, NONCE, eat.PROFILE)
    assert (found[4], found[6]) == (claims["exp"], claims["iat"])
    media_type, content, indicator = found[299]
    assert (media_type, indicator) == ("application/vnd.tee-agent.key+json", 6)
    assert claims["cmw"] == [media_type, jws.b64url(content), indicator]
    assert keydoc.decode(content).spki == party.spki


@pytest.mark.parametrize("form", FORMS)
def test_ours_verifies_it_with_nothing_but_itself(party: Party, made: dict[str, bytes], form: str) -> None:
    verdict = verify_eat(made[form], party.judge(AT), nonce=NONCE, audience=AUDIENCE)
    said = verdict.to_json()
    assert (said["kind"], said["form"], said["nonce"], said["audience"]) == ("EAT", form, NONCE.hex(), AUDIENCE)
    assert said["evidence"]["root"]["added"] is True
    bare = verify_eat(made[form], party.judge(AT))
    assert {"nonce: not compared", "audience: not compared"} <= set(bare.not_checked)
    with pytest.raises(UntrustedRoot):
        verify_eat(made[form], replace(party.judge(AT), anchors=None))


@pytest.mark.parametrize("form", FORMS)
def test_nonce_and_audience(party: Party, made: dict[str, bytes], form: str) -> None:
    for asked in ({"nonce": NONCE + b"!"}, {"audience": ""}, {"audience": AUDIENCE + "."}):
        with pytest.raises(BindingMismatch) as caught:
            verify_eat(made[form], party.judge(AT), **asked)
        assert caught.value.checks[-1].name in asked
    for size in (7, 65):
        with pytest.raises(UsageError):
            verify_eat(made[form], party.judge(AT), nonce=bytes(size))
    without = party.eat(AT, form, audience="")
    assert verify_eat(without, party.judge(AT), audience="").said["audience"] == ""
    for size in (8, 64):
        verify_eat(party.eat(AT, form, nonce=bytes(size)), party.judge(AT), nonce=bytes(size))


@pytest.mark.parametrize("form", FORMS)
def test_time(party: Party, made: dict[str, bytes], form: str) -> None:
    judge, second, five = replace(party.judge(AT), skew=timedelta(0)), timedelta(seconds=1), timedelta(minutes=5)
    for at in (AT, AT + five):
        verify_eat(made[form], replace(judge, at=at))
    for at, problem in ((AT - second, "is of"), (AT + five + second, "expired at")):
        with pytest.raises(OutOfValidity, match=problem) as caught:
            verify_eat(made[form], replace(judge, at=at))
        assert caught.value.checks[-1].name == "token in force"


@pytest.mark.parametrize("form", FORMS)
def test_a_token_that_outlives_its_key_is_neither_made_nor_taken(party: Party, form: str) -> None:
    begun, ended = party.statement.created, party.statement.expires
    outside: tuple[dict[str, Any], ...] = (
        {"expires": ended + timedelta(seconds=1)},
        {"issued": begun - timedelta(seconds=1)},
    )
    attachments = party.attachments()
    for changes in outside:
        with pytest.raises(FormatError, match="not within"):
            party.eat(AT, form, attachments, **changes)
        # Its own key would have to make it: with a longer statement at hand, which is not the one in the token.
        changed = times(changes)
        forged = forge(party, form, changed.__ror__)
        with pytest.raises(OutOfValidity, match="outlives"):
            verify_eat(forged, party.judge(AT))


def times(changes: dict[str, datetime]) -> dict[str, int]:
    return {{"issued": "iat", "expires": "exp"}[name]: int(moment.timestamp()) for name, moment in changes.items()}


@pytest.mark.parametrize("form", FORMS)
def test_another_keys_document_or_signature(party: Party, form: str) -> None:
    stranger = replace(party, private=PrivateKey(party.private.algorithm))
    genuine = party.attachments()
    stolen = stranger.eat(AT, form, stranger.attachments(genuine.blob))
    with pytest.raises(BindingMismatch) as caught:
        verify_eat(stolen, party.judge(AT))
    assert caught.value.checks[-1].name == "REPORT_DATA"
    record = cmw.to_json(keydoc.build(genuine)) if form == eat.JSON else cmw.to_cbor(keydoc.build(genuine))
    with pytest.raises(BindingMismatch, match="another key"):
        verify_eat(forge(stranger, form, lambda claims: claims | {"cmw": record}), party.judge(AT))
    with pytest.raises(SignatureInvalid):
        changed = party.eat(AT, form)
        verify_eat(eat_with_signature_of(stranger, changed, form), party.judge(AT))


def eat_with_signature_of(stranger: Party, token: bytes, form: str) -> bytes:
    if form == eat.JSON:
        signed = token.rpartition(b".")[0]
        return signed + b"." + jws.b64url(stranger.private.sign(signed)).encode()
    parts: list[Any] = cbor.decode(token, "token", eat.MAX_BYTES).value
    parts[3] = stranger.private.sign(cose.sig_structure(parts[0], parts[2]))
    return cbor.encode(cbor.Tag(cose.TAG, parts))


def test_the_checks_in_their_order(party: Party, made: dict[str, bytes]) -> None:
    verdict = verify_eat(made[eat.JSON], replace(party.judge(AT), key=party.attachments(b"-").key_sha256), nonce=NONCE)
    ours = [check.name for check in verdict.checks[:9]]
    assert ours == [
        "form: canonical and complete",
        "kid",
        "algorithm of the key",
        "signature of the key",
        "use of the key",
        "token in force",
        "token within the statement",
        "nonce",
        "statement in force",
    ]
    assert verdict.checks[9].name == "key"


def test_a_detached_token_is_refused(pki_state: Path) -> None:
    party = Party.on(machine("snp", pki_state), AT, "eat")
    good = cose.decode_sign1(party.eat(AT, eat.CBOR), eat.MAX_BYTES)
    parts: list[Any] = [good.protected, {}, None, good.signature]
    with pytest.raises(FormatError):
        verify_eat(cbor.encode(cbor.Tag(cose.TAG, parts)), party.judge(AT))


@pytest.mark.parametrize("form", FORMS)
def test_a_key_for_something_else_makes_none_and_passes_for_none(party: Party, form: str) -> None:
    other = replace(party, statement=replace(party.statement, use="jws"))
    with pytest.raises(FormatError, match="for jws"):
        other.eat(AT, form)
    document = other.document()
    record = cmw.to_json(document) if form == eat.JSON else cmw.to_cbor(document)
    with pytest.raises(VerificationError, match="for jws"):
        verify_eat(forge(party, form, lambda claims: claims | {"cmw": record}), party.judge(AT))


def test_what_is_not_made(pki_state: Path) -> None:
    party = Party.on(machine("snp", pki_state), AT, "eat")
    attachments = party.attachments()
    wrong: list[dict[str, Any]] = [
        {"nonce": bytes(7)},
        {"nonce": bytes(65)},
        {"audience": "x" * 257},
        {"audience": "\n"},
        {"expires": AT},
        {"issued": AT + timedelta(microseconds=1)},
        {"issued": AT.replace(tzinfo=None)},
    ]
    for changes in wrong:
        with pytest.raises(FormatError):
            party.eat(AT, eat.JSON, attachments, **changes)
    with pytest.raises(FormatError, match="neither"):
        party.eat(AT, "xml", attachments)
    large = replace(attachments, endorsements=replace(attachments.endorsements, tcb_info=bytes(700_000)))
    assert len(keydoc.build(large)) > 900_000
    for form in FORMS:
        assert len(eat.decode(party.eat(AT, form, large)).document) > 900_000


@given(st.binary(max_size=300), st.sampled_from([b"", b"eyJ", b"\xd2\x84", b"a.b."]))
def test_anything_else_is_a_format_error(data: bytes, begin: bytes) -> None:
    with pytest.raises(FormatError):
        eat.decode(begin + data)
