"""Messages of the quote generation service: both ways, every cut and bit of one, any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FormatError, Oversized, Truncated, UnsupportedVersion
from tdx import qgs

REQUEST = qgs.Request(bytes(range(256)) * 4, b"id list").encode()
RESPONSE = qgs.Response(b"quote" * 100, b"0123456789abcdef").encode()


def test_bytes_are_dcap_s() -> None:
    assert REQUEST[:24].hex() == "01000000" + "00000000" + "1f040000" + "00000000" + "00040000" + "07000000"
    assert REQUEST[24:] == bytes(range(256)) * 4 + b"id list"
    assert RESPONSE[:24].hex() == "01000000" + "01000000" + "1c020000" + "00000000" + "10000000" + "f4010000"
    assert RESPONSE[24:] == b"0123456789abcdef" + b"quote" * 100
    assert qgs.frame(b"abc") == b"\0\0\0\x03abc"


@given(st.binary(min_size=1, max_size=2000), st.binary(max_size=64))
def test_both_ways(first: bytes, second: bytes) -> None:
    assert qgs.parse_request(qgs.Request(first, second).encode()) == qgs.Request(first, second)
    assert qgs.parse_response(qgs.Response(first, second).encode()) == qgs.Response(first, second)
    framed = qgs.frame(first.ljust(16))
    assert qgs.framed_size(framed, 1 << 20) == len(framed) - 4


@pytest.mark.parametrize("code", [0x12001, 0x11005, 1, 0xFFFFFFFF])
def test_an_error(code: int) -> None:
    assert qgs.parse_response(qgs.Response(error_code=code).encode()).error_code == code
    assert f"0x{code:x}" in qgs.error_words(code)


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    for parse in (qgs.parse_request, qgs.parse_response):
        try:
            got = parse(data)
        except FormatError:
            continue
        assert got.encode()[4:] == data[4:]  # another minor version is compatible
    try:
        assert qgs.Header.SIZE <= qgs.framed_size(data, 100) <= 100
    except FormatError:
        pass


def test_every_cut_and_one_byte_more() -> None:
    for parse, whole in ((qgs.parse_request, REQUEST), (qgs.parse_response, RESPONSE)):
        for size in range(len(whole)):
            with pytest.raises(Truncated):
                parse(whole[:size])
        with pytest.raises(Oversized):
            parse(whole + b"\0")


def test_every_bit_of_a_head() -> None:
    """Only the minor version may differ, and what is behind the head."""
    for parse, whole in ((qgs.parse_request, REQUEST), (qgs.parse_response, RESPONSE)):
        passed = set()
        for bit in range(8 * 24):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            try:
                parse(bytes(changed))
            except FormatError:
                continue
            passed.add(bit // 8)
        assert passed == {2, 3}


def test_refusals_are_typed() -> None:
    with pytest.raises(UnsupportedVersion, match=r"2\.0"):
        qgs.parse_response(b"\2" + RESPONSE[1:])
    with pytest.raises(FormatError, match="type 0, not 1"):
        qgs.parse_response(REQUEST)
    with pytest.raises(FormatError, match="without a report"):
        qgs.parse_request(qgs.Request(b"").encode())
    with pytest.raises(FormatError, match="0 bytes of quote with error code 0x0"):
        qgs.parse_response(qgs.Response(b"").encode())
    with pytest.raises(FormatError, match="5 bytes of quote with error code 0x12001"):
        qgs.parse_response(qgs.Response(b"quote", error_code=0x12001).encode())
    with pytest.raises(Oversized, match="id of 4097"):
        qgs.parse_response(qgs.Response(b"q", bytes(qgs.MAX_IDS + 1)).encode())
    with pytest.raises(Oversized, match="quote of"):
        qgs.parse_response(qgs.Response(bytes(qgs.MAX_QUOTE + 1)).encode())


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [(b"", Truncated), (b"\0\0\1", Truncated), (b"\0\0\0\x0f", FormatError), (b"\0\0\0\x65", Oversized)],
)
def test_frames_are_bounded(prefix: bytes, kind: type[FormatError]) -> None:
    with pytest.raises(kind):
        qgs.framed_size(prefix, 100)
