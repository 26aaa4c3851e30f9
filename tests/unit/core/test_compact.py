"""Compact bundles and attachments: the whole bundle comes out of both, and out of nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agent.core import attachdoc, bundle, canonical, compact, keydoc
from agent.core.bundle import Bundle, Fresh, Payload, Series
from agent.core.compact import Compact
from agent.core.errors import BindingMismatch, FormatError, Oversized, UnsupportedVersion
from tests.support.mutations import cuts, flips
from tests.unit.core.test_bundle import ATTACHED, PLAIN, PROVEN

TEXT = st.text(max_size=60).filter(lambda text: canonical.is_text(text, 256))
SCALARS = st.none() | st.booleans() | st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER) | st.text(max_size=9)
OBJECTS = st.dictionaries(st.text(max_size=6), SCALARS | st.lists(SCALARS, max_size=3), max_size=4)
HASHES = st.binary(min_size=64, max_size=64)
PROOFS = st.builds(
    Fresh,
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=64),
    OBJECTS,
    OBJECTS,
    HASHES,
    st.integers(1, 1 << 20),
    st.just(0),
    st.lists(HASHES, max_size=4).map(tuple),
)
PAYLOADS = st.builds(Payload, HASHES, st.integers(0, canonical.MAX_INTEGER))
BUNDLES = st.builds(Bundle, PAYLOADS, TEXT, TEXT, st.just(ATTACHED), st.none() | PROOFS, HASHES)


def reference(made: Bundle) -> dict[str, Any]:
    """The members but the attachments, from the forms that to_json gives."""
    return {
        "audience": made.audience,
        "context": made.context,
        "fresh": made.fresh.to_json() if made.fresh else None,
        "payload": made.payload.to_json(),
    }


@given(BUNDLES)
def test_every_form_is_the_reference_encoders(made: Bundle) -> None:
    members = reference(made)
    signature = {"signature": canonical.b64(made.signature)}
    head = rfc8785.dumps({**members, "type": "tee-agent/bundle/v1"})
    assert made.signing_input().endswith(len(head).to_bytes(4, "big") + head)
    whole = {**members, **signature, **ATTACHED.to_json(), "type": "tee-agent/bundle/v1"}
    assert made.encode() == rfc8785.dumps(whole)
    named = {"attachments": ATTACHED.digest.hex(), "type": "tee-agent/compact/v1"}
    assert compact.encode(made) == rfc8785.dumps({**members, **signature, **named})


@given(BUNDLES)
def test_a_compact_bundle_and_its_attachments_are_the_bundle(made: Bundle) -> None:
    short = compact.encode(made)
    found = compact.join(compact.decode(short), attachdoc.decode(attachdoc.build(ATTACHED)))
    assert found == made
    assert found.encode() == made.encode()
    assert compact.encode(found) == short


@pytest.mark.parametrize("made", [PLAIN, PROVEN])
def test_signed_in_one_go_is_the_same(made: Bundle) -> None:
    asked: list[bytes] = []

    def sign(data: bytes) -> bytes:
        asked.append(data)
        return made.signature

    assert Series(replace(made, signature=b""), sign, compact.frame).signed(made.payload) == compact.encode(made)
    assert asked == [made.signing_input()]


def test_a_series_is_the_same_one_by_one() -> None:
    series = Series(replace(PLAIN, signature=b""), lambda _: PLAIN.signature, compact.frame)
    for payload in (PLAIN.payload, Payload.of(b"another one")):
        assert series.signed(payload) == compact.encode(replace(PLAIN, payload=payload))
    with pytest.raises(FormatError, match="fresh"):
        Series(PROVEN, lambda _: PROVEN.signature).signed(Payload.of(b"another one"))


def test_a_draft_has_no_compact_form() -> None:
    with pytest.raises(FormatError, match="signature"):
        compact.encode(replace(PLAIN, signature=b""))


def test_every_changed_byte_is_refused_or_another_signature() -> None:
    """What still decodes differs in what is signed, or in the signature, or in the attachments that it names."""
    short = compact.encode(PROVEN)
    signed = {(PROVEN.signing_input(), PROVEN.signature)}
    for _, changed in flips(short):
        try:
            found = compact.join(compact.decode(changed), ATTACHED)
        except (FormatError, BindingMismatch):
            continue
        assert compact.encode(found) == changed
        assert (found.signing_input(), found.signature) not in signed
        signed.add((found.signing_input(), found.signature))
    assert len(signed) > 1000
    for _, changed in cuts(short):
        with pytest.raises(FormatError):
            compact.decode(changed)


def test_every_changed_byte_of_attachments_is_another_digest() -> None:
    document = attachdoc.build(ATTACHED)
    assert document == canonical.encode(json.loads(document))
    seen = {ATTACHED.digest}
    for _, changed in flips(document):
        try:
            found = attachdoc.decode(changed)
        except FormatError:
            continue
        assert found.digest not in seen
        seen.add(found.digest)
        with pytest.raises(BindingMismatch) as caught:
            compact.join(compact.decode(compact.encode(PLAIN)), found)
        assert caught.value.code == "verify.binding.attachments"
    assert len(seen) > 100


def document(**changes: Any) -> bytes:
    loaded = json.loads(compact.encode(PROVEN))
    return canonical.encode({name: value for name, value in {**loaded, **changes}.items() if value != "-"})


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"fresh": "-"},
        {"attachments": "00" * 63},
        {"attachments": ATTACHED.digest.hex().upper()},
        {"attachments": None},
        {"signature": canonical.b64(bytes(63))},
        {"signature": canonical.b64(bytes(97))},
        {"signature": ""},
        {"context": "x" * 257},
        {"audience": "a\nb"},
        {"payload": {"algorithm": "sha-256", "digest": "00" * 64, "size": 1}},
        {"fresh": False},
    ],
)
def test_values_out_of_their_domain_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        compact.decode(document(**changes))


def test_other_types_and_layouts_are_refused() -> None:
    for other in ("tee-agent/compact/v2", bundle.TYPE, None):
        with pytest.raises(UnsupportedVersion):
            compact.decode(document(type=other))
        with pytest.raises(UnsupportedVersion):
            attachdoc.decode(canonical.encode({**json.loads(attachdoc.build(ATTACHED)), "type": other}))
    with pytest.raises(FormatError, match="canonical"):
        compact.decode(json.dumps(json.loads(document())).encode())
    with pytest.raises(FormatError, match="canonical"):
        attachdoc.decode(json.dumps(json.loads(attachdoc.build(ATTACHED))).encode())
    with pytest.raises(Oversized):
        compact.decode(b" " * (compact.MAX_BYTES + 1))


def test_a_signature_of_another_algorithm_is_refused() -> None:
    found = compact.decode(compact.encode(PLAIN))
    with pytest.raises(FormatError, match="Ed25519 has 64"):
        compact.join(replace(found, signature=bytes(96)), ATTACHED)


def test_attachments_come_out_of_three_documents() -> None:
    for data in (attachdoc.build(ATTACHED), keydoc.build(ATTACHED), PLAIN.encode()):
        assert attachdoc.decode_any(data) == ATTACHED
        with pytest.raises(FormatError):
            attachdoc.decode_any(data + b" ")
    for data in (b"", b"{}", b"[]", compact.encode(PLAIN)):
        with pytest.raises(FormatError):
            attachdoc.decode_any(data)


def test_a_compact_bundle_says_nothing_but_what_it_says() -> None:
    found = compact.decode(compact.encode(PROVEN))
    assert found == Compact(
        ATTACHED.digest, PROVEN.payload, PROVEN.context, PROVEN.audience, PROVEN.fresh, PROVEN.signature
    )
