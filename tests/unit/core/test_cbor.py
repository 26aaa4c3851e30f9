"""CBOR: the examples of RFC 8949, cbor2 as an independent judge, and everything that is not the one form."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import cbor
from agent.core.errors import FormatError, Oversized, Truncated

# RFC 8949, appendix A.
EXAMPLES: list[tuple[str, Any]] = [
    ("00", 0),
    ("17", 23),
    ("1818", 24),
    ("1903e8", 1000),
    ("1a000f4240", 1000000),
    ("1b000000e8d4a51000", 1000000000000),
    ("20", -1),
    ("3863", -100),
    ("3903e7", -1000),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("40", b""),
    ("4401020304", b"\1\2\3\4"),
    ("60", ""),
    ("6449455446", "IETF"),
    ("62c3bc", "\u00fc"),
    ("80", []),
    ("8301820203820405", [1, [2, 3], [4, 5]]),
    ("a0", {}),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": [2, 3]}),
    ("c11a514b67b0", cbor.Tag(1, 1363896240)),
    ("d74401020304", cbor.Tag(23, b"\1\2\3\4")),
]
REFUSED = {
    "number not in its shortest form": "1817",
    "length not in its shortest form": "580100",
    "indefinite bytes": "5f4100ff",
    "indefinite array": "9fff",
    "indefinite map": "bfff",
    "break": "ff",
    "reserved length": "1c",
    "float": "f90000",
    "double": "fb3ff199999999999a",
    "undefined": "f7",
    "simple value": "f0",
    "false in two bytes": "f814",
    "a key twice": "a201010102",
    "the same pair twice": "a201010101",
    "negative of 64 bits": "3bffffffffffffffff",
    "keys out of order": "a203040102",
    "shorter key of a later type first": "a22001190111" + "01",
    "array as key": "a18001",
    "bytes as key": "a1410001",
    "true as key": "a1f501",
    "text that is not UTF-8": "61ff",
    "integer of 64 bits": "1bffffffffffffffff",
    "trailing bytes": "0000",
    "too deep": "81" * 9 + "00",
    "too many": "990401" + "00" * 1025,
    "nothing": "",
    "more announced than there is": "9affffffff00",
    "a string longer than memory": "5b7fffffffffffffff00",
}

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40) | st.text(max_size=40)
KEYS = st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@pytest.mark.parametrize(("text", "value"), EXAMPLES)
def test_examples_of_the_standard(text: str, value: Any) -> None:
    data = bytes.fromhex(text)
    assert cbor.encode(value) == data
    assert cbor.decode(data, "example", 100) == value


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        cbor.decode(bytes.fromhex(REFUSED[name]), "it", 5000)


def test_bounds() -> None:
    assert cbor.decode(b"\x81" * 8 + b"\0", "it", 9) == [[[[[[[[0]]]]]]]]
    assert cbor.decode(b"\x49" + bytes(9), "it", 10) == bytes(9)
    with pytest.raises(Oversized, match="more than 9 bytes"):
        cbor.decode(b"\x49" + bytes(9), "it", 9)
    with pytest.raises(Oversized, match="1 bytes after its end"):
        cbor.decode(bytes(2), "it", 9)
    with pytest.raises(FormatError):
        cbor.decode(b"\x81" * 5000, "it", 5000)
    with pytest.raises(Truncated):
        cbor.decode(b"\x42\0", "it", 9)
    nested: Any = 0
    for _ in range(9):
        nested = [nested]
    for value in (nested, 2**63, -(2**63) - 1, 1.5, "\ud800", object(), cbor.Tag(2**64, 0)):
        with pytest.raises(FormatError):
            cbor.encode(value)


def test_keys_are_sorted_by_their_bytes() -> None:
    """RFC 8949 section 4.2.1, not by length first as RFC 7049 had it: 273 stands before -1."""
    assert cbor.encode({-1: 0, 273: 0}).hex() == "a2190111002000"


@given(VALUES)
def test_cbor2_reads_what_is_written(value: Any) -> None:
    try:
        data = cbor.encode(value)
    except FormatError:
        return
    assert cbor2.loads(data) == value
    assert cbor.decode(data, "it", len(data)) == value


@given(st.binary(max_size=60))
def test_what_is_taken_has_one_form(data: bytes) -> None:
    try:
        value = cbor.decode(data, "it", 60)
    except FormatError:
        return
    assert cbor.encode(value) == data
