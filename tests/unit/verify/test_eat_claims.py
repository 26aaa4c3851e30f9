"""The claims of an EAT: which there are, of which types, under which labels. Everything else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.core import cbor, cmw, cose, eat, jws
from agent.core.errors import FormatError
from agent.verify.eat import verify_eat
from tests.support.eats import AT, FORMS, forge
from tests.support.formats import Party
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]


CLAIMS: dict[str, dict[str, Any]] = {
    "short nonce": {"eat_nonce": {eat.JSON: "AAAA", eat.CBOR: bytes(7)}},
    "long nonce": {"eat_nonce": {eat.JSON: "A" * 88, eat.CBOR: bytes(65)}},
    "nonce of another type": {"eat_nonce": {eat.JSON: 1, eat.CBOR: "text of a nonce"}},
    "nonce beyond ASCII": {"eat_nonce": {eat.JSON: "\u00e9" * 12, eat.CBOR: "\u00e9" * 12}},
    "evidence beyond ASCII": {"cmw": ["application/vnd.tee-agent.key+json", "\u00e9", 6]},
    "several nonces": {"eat_nonce": {eat.JSON: ["A" * 22] * 2, eat.CBOR: [bytes(16)] * 2}},
    "another profile": {"eat_profile": "urn:uuid:00000000-0000-4000-8000-000000000000"},
    "empty audience": {"aud": ""},
    "several audiences": {"aud": ["a", "b"]},
    "no time": {"exp": None},
    "time as text": {"iat": "1"},
    "time before 1970": {"iat": -1},
    "time beyond 9999": {"exp": 253402300800},
    "an unknown claim": {"ueid": "x"},
    "no evidence": {"cmw": None},
    "evidence as text": {"cmw": "x"},
    "evidence as an empty list": {"cmw": {eat.JSON: [], eat.CBOR: []}},
    "evidence as a map": {"cmw": {eat.JSON: {"a": 1, "b": 2, "c": 3}, eat.CBOR: {0: "a", 3: b"b", 2: 6}}},
    "another media type": {"cmw": ["application/eat+cwt", "AA", 6]},
    "no indicator": {"cmw": ["application/vnd.tee-agent.key+json", "AA"]},
    "another indicator": {
        "cmw": {
            eat.JSON: ["application/vnd.tee-agent.key+json", "AA", 4],
            eat.CBOR: ["application/vnd.tee-agent.key+json", b"x", 4],
        }
    },
    "the other format's content": {
        "cmw": {
            eat.JSON: ["application/vnd.tee-agent.key+json", 1, 6],
            eat.CBOR: ["application/vnd.tee-agent.key+json", "e30", 6],
        }
    },
    "content no document": {
        "cmw": {
            eat.JSON: ["application/vnd.tee-agent.key+json", "e30", 6],
            eat.CBOR: ["application/vnd.tee-agent.key+json", b"{}", 6],
        }
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CLAIMS)
def test_other_claims_are_refused(pki_state: Path, form: str, name: str) -> None:
    party = Party.on(machine("snp", pki_state), AT, "eat")

    def change(claims: dict[str, Any]) -> dict[Any, Any]:
        for key, value in CLAIMS[name].items():
            claims[key] = value[form] if isinstance(value, dict) else value
        return {key: value for key, value in claims.items() if value is not None}

    assert verify_eat(forge(party, form, lambda claims: claims), party.judge(AT))
    with pytest.raises(FormatError):
        verify_eat(forge(party, form, change), party.judge(AT))


def test_headers_and_labels_are_the_forms_own(pki_state: Path) -> None:
    party = Party.on(machine("snp", pki_state), AT, "eat")

    def same(claims: dict[str, Any]) -> dict[Any, Any]:
        return claims

    for wrong in ({"typ": "JWT"}, {"crit": ["exp"]}, {jws.CONTEXT: "x"}):
        with pytest.raises(FormatError):
            verify_eat(forge(party, eat.JSON, same, wrong), party.judge(AT))
    for header in ({}, {eat.COSE_TYP: "JWT"}, {eat.COSE_TYP: eat.CWT_TYPE, cose.CRIT: [16]}, {cose.CONTEXT: "x"}):
        with pytest.raises(FormatError):
            verify_eat(forge(party, eat.CBOR, same, header), party.judge(AT))
    text_keys = forge(party, eat.CBOR, lambda claims: {"x": 1, **claims})
    with pytest.raises(FormatError):
        verify_eat(text_keys, party.judge(AT))
    good = cose.decode_sign1(party.eat(AT, eat.CBOR), eat.MAX_BYTES)
    named = cbor.decode(good.payload or b"", "claims", eat.MAX_BYTES)
    named["aud"] = named.pop(3)
    headers: dict[int | str, Any] = {eat.COSE_TYP: eat.CWT_TYPE}
    with pytest.raises(FormatError, match="integer keys"):
        verify_eat(cose.build_sign1(party.private.sign, party.spki, headers, cbor.encode(named)), party.judge(AT))


def test_claims_are_a_map(pki_state: Path) -> None:
    party = Party.on(machine("snp", pki_state), AT, "eat")
    for payload in (b"\x80", b"\xf6", b""):
        headers: dict[int | str, Any] = {eat.COSE_TYP: eat.CWT_TYPE}
        with pytest.raises(FormatError):
            verify_eat(cose.build_sign1(party.private.sign, party.spki, headers, payload), party.judge(AT))
    for text in (b"[]", b"1", b"", b'{"a":1,"a":1}'):
        with pytest.raises(FormatError):
            token = jws.build_compact(party.private.sign, party.spki, {"typ": eat.JWT_TYPE}, text)
            verify_eat(token, party.judge(AT))


def test_a_cwt_holds_no_json_record(pki_state: Path) -> None:
    party = Party.on(machine("snp", pki_state), AT, "eat")
    record = cmw.to_json(party.document())
    with pytest.raises(FormatError, match="the other format's content"):
        verify_eat(forge(party, eat.CBOR, lambda claims: claims | {"cmw": record}), party.judge(AT))
