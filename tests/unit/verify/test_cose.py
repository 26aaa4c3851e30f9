"""COSE_Sign1: an independent library verifies ours, ours refuses what is not exactly ours."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import canonical, cbor, cose
from agent.core.algorithm import ALGORITHMS
from agent.core.errors import BindingMismatch, FormatError, Oversized, SignatureInvalid, VerificationError
from agent.daemon.privatekey import PrivateKey
from agent.verify.cose import verify_cose
from tests.support import judges
from tests.support.formats import AUDIENCE, CONTEXT, PAYLOAD, Party
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]
AT = datetime.now(UTC)


@pytest.fixture(scope="module", params=ALGORITHMS)
def party(request: pytest.FixtureRequest, pki_state: Path) -> Party:
    return Party.on(machine("snp", pki_state), AT, "cose", request.param)


@pytest.fixture(scope="module")
def document(party: Party) -> bytes:
    return party.document()


def assembled(
    key: PrivateKey,
    header: dict[Any, Any] | bytes,
    payload: Any = PAYLOAD,
    unprotected: Any = None,
    tag: int | None = cose.TAG,
) -> bytes:
    """Signed over any header whatever: what an attacker with a key of his own can send."""
    protected = header if isinstance(header, bytes) else cbor.encode(header)
    signature = key.sign(cose.sig_structure(protected, payload))
    parts = [protected, {} if unprotected is None else unprotected, payload, signature]
    return cbor.encode(parts if tag is None else cbor.Tag(tag, parts))


def header_of(key: PrivateKey, changes: dict[Any, Any] | None = None) -> dict[Any, Any]:
    made = {cose.ALG: key.algorithm.cose, cose.KID: cose.thumbprint(key.spki), **(changes or {})}
    return {name: value for name, value in made.items() if value is not None}


def test_an_independent_library_verifies_it(party: Party) -> None:
    assert judges.pycose(party.spki, party.cose(content_type="text/plain"))
    assert judges.pycose(party.spki, party.cose(detached=True), PAYLOAD)
    found = cbor2.loads(cbor2.loads(party.cose(content_type="text/plain")).value[0])
    assert found == {
        1: party.private.algorithm.cose,
        3: "text/plain",
        4: cose.thumbprint(party.spki),
        cose.CONTEXT: CONTEXT,
        cose.AUDIENCE: AUDIENCE,
    }


def test_the_thumbprint_of_the_standard() -> None:
    """RFC 9679, section 6: the key's two coordinates, and the thumbprint published for them."""
    x = "65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d"
    y = "1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c"
    spki = ALGORITHMS["ECDSA-P256"].spki_prefix + bytes.fromhex(x + y)
    assert cose.thumbprint(spki).hex() == "496bd8afadf307e5b08c64b0421bf9dc01528a344a43bda88fadd1669da253ec"


def test_ours_verifies_it_and_says_what_it_holds(party: Party, document: bytes) -> None:
    data, judge = party.cose(content_type="text/plain"), party.judge(AT)
    verdict = verify_cose(data, document, judge, payload=PAYLOAD, context=CONTEXT, audience=AUDIENCE)
    assert verdict.payload == PAYLOAD
    said = verdict.to_json()
    assert (said["kind"], said["context"], said["content_type"]) == ("COSE_Sign1", CONTEXT, "text/plain")
    assert said["detached"] is False
    bare = verify_cose(data, document, judge)
    assert {"payload: not compared", "context: not compared", "audience: not compared"} <= set(bare.not_checked)


def test_detached(party: Party, document: bytes) -> None:
    data, judge = party.cose(detached=True), party.judge(AT)
    assert verify_cose(data, document, judge, payload=PAYLOAD).said["detached"] is True
    with pytest.raises(SignatureInvalid):
        verify_cose(data, document, judge, payload=b"other")
    with pytest.raises(FormatError, match="has to be given"):
        verify_cose(data, document, judge)
    with pytest.raises(Oversized):
        verify_cose(data, document, judge, payload=bytes(cose.MAX_PAYLOAD + 1))
    with pytest.raises(FormatError, match="the payload is inside"):
        cose.decode(party.cose()).sign1.signing_input(PAYLOAD)
    empty = party.cose(b"", detached=True)
    assert verify_cose(empty, document, judge, payload=b"").payload == b""


@pytest.mark.parametrize("asked", [{"payload": b"other"}, {"context": "other"}, {"context": ""}, {"audience": "x"}])
def test_what_differs_from_what_was_asked(party: Party, document: bytes, asked: dict[str, Any]) -> None:
    with pytest.raises(BindingMismatch) as caught:
        verify_cose(party.cose(), document, party.judge(AT), **asked)
    assert caught.value.checks[-1].name in asked


def test_no_algorithm_but_the_keys(party: Party, document: bytes) -> None:
    for number in {-8, -19, -7, -9, -35, -51, -47, -257, 5, 0} - {party.private.algorithm.cose}:
        forged = assembled(party.private, header_of(party.private, {cose.ALG: number}))
        with pytest.raises(SignatureInvalid, match="the COSE_Sign1 says"):
            verify_cose(forged, document, party.judge(AT))


def test_a_header_is_bounded(party: Party) -> None:
    signature = party.private.sign(b"")
    long = cbor.Tag(cose.TAG, [bytes(cose.MAX_HEADER + 1), {}, PAYLOAD, signature])
    with pytest.raises(Oversized, match="COSE header"):
        cose.decode(cbor.encode(long))


def test_a_strangers_signature_or_name(party: Party, document: bytes) -> None:
    stranger = PrivateKey(party.private.algorithm)
    with pytest.raises(BindingMismatch, match="another key"):
        verify_cose(assembled(stranger, header_of(stranger)), document, party.judge(AT))
    with pytest.raises(SignatureInvalid, match="does not verify"):
        verify_cose(assembled(stranger, header_of(party.private)), document, party.judge(AT))


def test_another_structure_signed_is_refused(party: Party, document: bytes) -> None:
    """COSE_Sign's and COSE_Mac's contexts, and external data, are other structures: signed, they pass for nothing."""
    protected = cbor.encode(header_of(party.private))
    for structure in (
        ["Signature", protected, b"", b"", PAYLOAD],
        ["MAC0", protected, b"", PAYLOAD],
        ["Signature1", protected, b"x", PAYLOAD],
    ):
        parts = [protected, {}, PAYLOAD, party.private.sign(cbor.encode(structure))]
        with pytest.raises(SignatureInvalid):
            verify_cose(cbor.encode(cbor.Tag(cose.TAG, parts)), document, party.judge(AT))


@pytest.mark.parametrize(
    "changes",
    [
        {cose.CRIT: [4]},
        {cose.CRIT: []},
        {cose.ALG: None},
        {cose.KID: None},
        {cose.ALG: "ES256"},
        {cose.ALG: True},
        {cose.KID: "text"},
        {5: b"iv"},
        {16: "application/eat+cwt"},
        {33: b"certificate"},
        {"unknown": 1},
        {cose.CONTENT_TYPE: 0},
        {cose.CONTENT_TYPE: "no media type"},
        {cose.CONTEXT: ""},
        {cose.CONTEXT: b"x"},
        {cose.AUDIENCE: "x" * 257},
        {cose.AUDIENCE: "\u202e"},
    ],
)
def test_other_headers_are_refused(party: Party, document: bytes, changes: dict[Any, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        verify_cose(assembled(party.private, header_of(party.private, changes)), document, party.judge(AT))
    assert (caught.value.code == "format.crit") is (cose.CRIT in changes)


def test_one_byte_form_only(party: Party, document: bytes) -> None:
    key, data, judge = party.private, party.cose(), party.judge(AT)
    header = header_of(key)
    pairs = [cbor.encode(name) + cbor.encode(value) for name, value in sorted(header.items(), reverse=True)]
    wrong = {
        "unprotected": assembled(key, header, unprotected={4: b"x"}),
        "untagged": assembled(key, header, tag=None),
        "another tag": assembled(key, header, tag=98),
        "header order": assembled(key, b"\xa2" + b"".join(pairs)),
        "header no map": assembled(key, b"\x80"),
        "header empty": assembled(key, b""),
        "payload text": assembled(key, header, "text"),
        "five": cbor.encode(cbor.Tag(18, [*cbor.decode(data, "it", 9999).value, 0])),
        "tag not shortest": b"\xd8\x12" + data[1:],
        "more": data + b"\0",
        "no cbor": b"eyJ",
    }
    for name, changed in wrong.items():
        with pytest.raises(FormatError):
            verify_cose(changed, document, judge)
            pytest.fail(name)


def test_a_key_for_something_else(party: Party) -> None:
    other = replace(party, statement=replace(party.statement, use="jws"))
    with pytest.raises(VerificationError, match="for jws"):
        verify_cose(other.cose(), other.document(), party.judge(AT))


def test_bounds() -> None:
    key = PrivateKey(ALGORITHMS["Ed25519"])
    largest = cose.build(
        key.sign, key.spki, bytes(cose.MAX_PAYLOAD), context="x" * 256, audience="y" * 256, content_type="a/b"
    )
    assert len(cose.decode(largest).sign1.payload or b"") == cose.MAX_PAYLOAD
    with pytest.raises(Oversized):
        cose.build(key.sign, key.spki, bytes(cose.MAX_PAYLOAD + 1))
    with pytest.raises(Oversized):
        cose.decode(assembled(key, header_of(key), bytes(cose.MAX_PAYLOAD + 1)))
    wrong: list[dict[str, Any]] = [{"context": "x" * 257}, {"audience": "\n"}, {"content_type": "a"}]
    for changes in (*wrong, {"content_type": "a/b;c"}):
        with pytest.raises(FormatError):
            cose.build(key.sign, key.spki, b"", **changes)
    with pytest.raises(FormatError, match="fixed form"):
        cose.build(lambda _: b"short", key.spki, b"")


@given(payload=st.binary(max_size=200), context=st.text(max_size=80), audience=st.text(max_size=80))
def test_what_is_built_is_read_back(payload: bytes, context: str, audience: str) -> None:
    key = PrivateKey(ALGORITHMS["Ed25519"])
    try:
        data = cose.build(key.sign, key.spki, payload, context=context, audience=audience)
    except FormatError:
        assert not (canonical.is_text(context, 256) and canonical.is_text(audience, 256))
        return
    found = cose.decode(data)
    assert (found.sign1.payload, found.context, found.audience) == (payload, context, audience)
    assert judges.pycose(key.spki, data)


@given(st.binary(max_size=300))
def test_anything_else_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        cose.decode(b"\xd2\x84" + data)
