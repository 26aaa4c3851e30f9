"""JWS: joserfc verifies ours, ours refuses everything that is not exactly ours."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import canonical, jws
from agent.core.algorithm import ALGORITHMS
from agent.core.errors import BindingMismatch, FormatError, Oversized, SignatureInvalid, VerificationError
from agent.daemon.privatekey import PrivateKey
from agent.verify.jws import verify_jws
from tests.support import judges
from tests.support.formats import AUDIENCE, CONTEXT, PAYLOAD, Party
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]
AT = datetime.now(UTC)


@pytest.fixture(scope="module", params=ALGORITHMS)
def party(request: pytest.FixtureRequest, pki_state: Path) -> Party:
    return Party.on(machine("snp", pki_state), AT, "jws", request.param)


@pytest.fixture(scope="module")
def document(party: Party) -> bytes:
    return party.document()


def assembled(key: PrivateKey, header: dict[str, Any] | bytes, payload: bytes = PAYLOAD) -> bytes:
    """Signed over any header whatever: what an attacker with a key of his own can send."""
    raw = header if isinstance(header, bytes) else canonical.encode(header)
    signed = f"{jws.b64url(raw)}.{jws.b64url(payload)}".encode()
    return signed + b"." + jws.b64url(key.sign(signed)).encode()


def header_of(key: PrivateKey, **changes: Any) -> dict[str, Any]:
    made = {"alg": key.algorithm.jose, "kid": jws.thumbprint(key.spki), "typ": jws.TYPE} | changes
    return {name: value for name, value in made.items() if value is not None}


def test_an_independent_library_verifies_it(party: Party) -> None:
    found = judges.joserfc(party.spki, party.jws())
    assert found.payload == PAYLOAD
    header = found.headers()
    assert header["kid"] == judges.public_jwk(party.spki).thumbprint()
    assert (header[jws.CONTEXT], header[jws.AUDIENCE]) == (CONTEXT, AUDIENCE)
    plain = judges.joserfc(party.spki, party.jws(context="", audience=""), strict=True)
    assert plain.headers().keys() == {"alg", "kid", "typ"}


def test_ours_verifies_it_and_says_what_it_holds(party: Party, document: bytes) -> None:
    data, judge = party.jws(), party.judge(AT)
    verdict = verify_jws(data, document, judge, payload=PAYLOAD, context=CONTEXT, audience=AUDIENCE)
    assert verdict.payload == PAYLOAD
    left_out = [what for what in verdict.not_checked if "not compared" in what]
    assert left_out == ["key: not compared", "storage: not compared"]
    said = verdict.to_json()
    assert (said["kind"], said["context"], said["typ"]) == ("JWS", CONTEXT, jws.TYPE)
    bare = verify_jws(data, document, judge)
    assert {"payload: not compared", "context: not compared", "audience: not compared"} <= set(bare.not_checked)


@pytest.mark.parametrize("typ", jws.TYPES)
def test_types(party: Party, document: bytes, typ: str) -> None:
    assert verify_jws(party.jws(typ=typ), document, party.judge(AT)).said["typ"] == typ


@pytest.mark.parametrize("asked", [{"payload": b"other"}, {"context": "other"}, {"context": ""}, {"audience": "x"}])
def test_what_differs_from_what_was_asked(party: Party, document: bytes, asked: dict[str, Any]) -> None:
    with pytest.raises(BindingMismatch) as caught:
        verify_jws(party.jws(), document, party.judge(AT), **asked)
    assert caught.value.checks[-1].name in asked


def test_no_algorithm_but_the_keys(party: Party, document: bytes) -> None:
    others = {"none", "HS256", "RS256", "Ed25519", "EdDSA", "ES256", "ES384", "ES256K"} - {party.private.algorithm.jose}
    for name in others:
        forged = assembled(party.private, header_of(party.private, alg=name))
        with pytest.raises(SignatureInvalid, match="the JWS says"):
            verify_jws(forged, document, party.judge(AT))
    unsigned = assembled(party.private, header_of(party.private, alg="none")).rpartition(b".")[0] + b"."
    with pytest.raises(SignatureInvalid):
        verify_jws(unsigned, document, party.judge(AT))
    emptied = party.jws().rpartition(b".")[0] + b"."
    with pytest.raises(SignatureInvalid):
        verify_jws(emptied, document, party.judge(AT))


def test_a_strangers_signature_or_name(party: Party, document: bytes) -> None:
    stranger = PrivateKey(party.private.algorithm)
    with pytest.raises(BindingMismatch, match="another key"):
        verify_jws(assembled(stranger, header_of(stranger)), document, party.judge(AT))
    with pytest.raises(SignatureInvalid, match="does not verify"):
        verify_jws(assembled(stranger, header_of(party.private)), document, party.judge(AT))


def test_the_other_s_is_refused(party: Party, document: bytes) -> None:
    kind = party.private.algorithm
    signed, _, signature = party.jws().rpartition(b".")
    raw = jws.unb64url(signature, "signature")
    half = len(raw) // 2
    if kind.order:
        raw = raw[:half] + (kind.order - int.from_bytes(raw[half:], "big")).to_bytes(half, "big")
        assert judges.joserfc(party.spki, signed + b"." + jws.b64url(raw).encode()).payload == PAYLOAD
    else:
        raw = raw[:half] + (int.from_bytes(raw[half:], "little") + (1 << 252)).to_bytes(half, "little")
    with pytest.raises(SignatureInvalid):
        verify_jws(signed + b"." + jws.b64url(raw).encode(), document, party.judge(AT))


@pytest.mark.parametrize(
    "changes",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"b64": False},
        {"jwk": {}},
        {"x5c": []},
        {"kid": None},
        {"typ": None},
        {"alg": None},
        {"typ": "at+jwt"},
        {"typ": "eat+jwt"},
        {"alg": 1},
        {"kid": 1},
        {jws.CONTEXT: ""},
        {jws.AUDIENCE: 7},
        {jws.CONTEXT: "x" * 257},
        {jws.CONTEXT: "\u202e"},
    ],
)
def test_other_headers_are_refused(party: Party, document: bytes, changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        verify_jws(assembled(party.private, header_of(party.private, **changes)), document, party.judge(AT))
    assert (caught.value.code == "format.crit") is ("crit" in changes)


def test_one_byte_form_only(party: Party, document: bytes) -> None:
    data, judge = party.jws(), party.judge(AT)
    head, body, tail = data.split(b".")
    loose = json.dumps(header_of(party.private)).encode()
    twice = canonical.encode(header_of(party.private)).replace(b"{", b'{"alg":"none",', 1)
    padded = b"%s.%s=.%s" % (head, body, tail)
    wrong = [assembled(party.private, loose), assembled(party.private, twice), assembled(party.private, b"[]")]
    for changed in (*wrong, data + b"\n", b" " + data, padded, data.replace(b".", b"..", 1), head + b"." + body, b""):
        with pytest.raises(FormatError):
            verify_jws(changed, document, judge)


def test_bounds() -> None:
    key = PrivateKey(ALGORITHMS["Ed25519"])
    largest = jws.build(key.sign, key.spki, bytes(jws.MAX_PAYLOAD), context="x" * 256, audience="y" * 256, typ="JOSE")
    assert len(jws.decode(largest).compact.payload) == jws.MAX_PAYLOAD
    with pytest.raises(Oversized):
        jws.build(key.sign, key.spki, bytes(jws.MAX_PAYLOAD + 1))
    with pytest.raises(Oversized):
        jws.decode(assembled(key, header_of(key), bytes(jws.MAX_PAYLOAD + 1)))
    with pytest.raises(Oversized):
        jws.decode(b"a" * (jws.MAX_BYTES + 1))
    for changes in ({"context": "x" * 257}, {"audience": "\n"}, {"typ": "at+jwt"}, {"typ": ""}):
        with pytest.raises(FormatError):
            jws.build(key.sign, key.spki, b"", **changes)
    with pytest.raises(FormatError, match="fixed form"):
        jws.build(lambda _: b"short", key.spki, b"")


def test_the_signer_of_the_document_may_be_for_something_else(party: Party) -> None:
    other = replace(party, statement=replace(party.statement, use="cose"))
    with pytest.raises(VerificationError, match="for cose"):
        verify_jws(other.jws(), other.document(), party.judge(AT))


@given(payload=st.binary(max_size=200), context=st.text(max_size=80), audience=st.text(max_size=80))
def test_what_is_built_is_read_back(payload: bytes, context: str, audience: str) -> None:
    key = PrivateKey(ALGORITHMS["Ed25519"])
    try:
        data = jws.build(key.sign, key.spki, payload, context=context, audience=audience)
    except FormatError:
        assert not (canonical.is_text(context, 256) and canonical.is_text(audience, 256))
        return
    found = jws.decode(data)
    assert (found.compact.payload, found.context, found.audience) == (payload, context, audience)
    assert judges.joserfc(key.spki, data).payload == payload


@given(st.binary(max_size=300))
def test_anything_else_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        jws.decode(data)
