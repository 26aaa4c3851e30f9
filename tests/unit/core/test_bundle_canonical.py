"""Canonical JSON: equal to the RFC 8785 package on everything, and only canonical bytes are taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agent.core import canonical
from agent.core.errors import FormatError, Oversized

SCALARS = st.none() | st.booleans() | st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER) | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_equals_the_reference_encoder(value: Any) -> None:
    assert canonical.encode(value) == rfc8785.dumps(value)


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=5))
def test_what_was_encoded_is_decoded(document: dict[str, Any]) -> None:
    assert canonical.decode(canonical.encode(document), "document", 1 << 20) == document


def test_keys_sort_by_utf16_units() -> None:
    """RFC 8785, 3.2.3: a character beyond the BMP sorts before U+E000, which code point order would not do."""
    assert canonical.encode({"\ue000": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ue000":1}'.encode()


DEEP: list[Any] = []
for _ in range(40):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [float("nan"), 1.5, {"a": 0.0}, 2**53, {"a": [2**60]}, "\ud800", {"\udfff": 1}, {1: 2}, {1}, b"", DEEP],
)
def test_refuses_what_json_cant_carry(value: Any) -> None:
    with pytest.raises(FormatError):
        canonical.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1}\n',
        b'{"a":"\\u0041"}',
        b'{"a":"\\/"}',
        b'{"a":-0}',
        b'{"a":"\\u000A"}',
    ],
)
def test_another_form_of_the_same_document_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="canonical form"):
        canonical.decode(data, "document", 100)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'{"a":1,"a":1}',
        b'{"a":1.5}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        b'{"a":',
        b'{"a":"\x01"}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' * 5000,
        b"[" * 20000,
    ],
)
def test_what_is_no_json_object_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        canonical.decode(data, "document", 1 << 20)


@pytest.mark.parametrize("data", [b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}', b'{"a":NaN}', b'{"a":-Infinity}'])
@pytest.mark.parametrize("floats", [False, True])
def test_what_nobody_may_write(data: bytes, floats: bool) -> None:
    with pytest.raises(FormatError) as caught:
        canonical.parse(data, "document", 100, floats=floats)
    assert caught.value.code == "format.json"


def test_only_documents_of_others_have_floats() -> None:
    assert canonical.parse(b'{"a": 1.5}', "document", 100, floats=True) == {"a": 1.5}
    with pytest.raises(FormatError, match="integers only"):
        canonical.parse(b'{"a": 1.5}', "document", 100)


def test_is_bounded() -> None:
    data = json.dumps({"a": "x" * 100}).encode()
    with pytest.raises(Oversized):
        canonical.parse(data, "document", 50)


def reader(**document: Any) -> canonical.Reader:
    return canonical.Reader(document, "record", frozenset(document))


@pytest.mark.parametrize(
    "value", ["YQ", "YQ=", "YR==", "YQ==\n", " YQ==", "Y Q==", "YQ==YQ==", "é", "-_==", 1, None, "YQ==" * 40]
)
def test_base64_has_one_form(value: Any) -> None:
    assert reader(a="YQ==").base64("a", 1, 8) == b"a"
    with pytest.raises(FormatError):
        reader(a=value).base64("a", 1, 8)


@pytest.mark.parametrize("value", ["AA", "a", "0x00", "0g", " 00", "", "000000", 0, None])
def test_hex_has_one_form(value: Any) -> None:
    assert reader(a="0a").hexadecimal("a", 1, 2) == b"\n"
    with pytest.raises(FormatError):
        reader(a=value).hexadecimal("a", 1, 2)


@pytest.mark.parametrize("value", [True, 1.0, "1", -1, 11, None])
def test_integers_are_integers(value: Any) -> None:
    assert reader(a=10).integer("a", 0, 10) == 10
    with pytest.raises(FormatError):
        reader(a=value).integer("a", 0, 10)


@pytest.mark.parametrize(
    "value", ["2026-13-01T00:00:00Z", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00.5Z", "2026-01-01", "x", 1, None]
)
def test_times_have_one_form(value: Any) -> None:
    assert canonical.rfc3339(reader(a="2026-01-01T00:00:00Z").time("a")) == "2026-01-01T00:00:00Z"
    with pytest.raises(FormatError):
        reader(a=value).time("a")


@pytest.mark.parametrize("value", ["a\n", "a\x1b[2J", "\u202eabc", "\x7f", "x" * 9, "\u00e9" * 5, 1, None])
def test_text_cant_repaint_a_terminal(value: Any) -> None:
    assert reader(a="\u00e9t\u00e9").text("a", 8) == "\u00e9t\u00e9"
    with pytest.raises(FormatError):
        reader(a=value).text("a", 8)


def test_keys_are_exact() -> None:
    documents: list[Any] = [{}, {"a": 1, "b": 2}, [], None]
    for document in documents:
        with pytest.raises(FormatError):
            canonical.Reader(document, "record", frozenset({"a"}))


def test_foreign_text_is_quoted_and_cut() -> None:
    assert canonical.shown("\x1b[2J\u202e" + "x" * 100).isascii()
    assert len(canonical.shown("x" * 1000)) < 80


def test_messages_cant_repaint_a_terminal() -> None:
    assert canonical.printable("\u00e9t\u00e9 \x1b[2J\u202e\n") == "\u00e9t\u00e9 \\x1b[2J\\u202e\\n"
