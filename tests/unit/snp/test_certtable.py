"""The host's certificate table: round trips, bounds, and what counts as an entry's content."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FormatError, Oversized, Truncated
from agent.core.model import Endorsements
from snp import certtable
from snp.certtable import GUIDS, Row

A, B = GUIDS["ARK"], GUIDS["VCEK"]


def row(guid: str, offset: int, length: int) -> bytes:
    return Row.build(guid=bytes.fromhex(guid.replace("-", "")), offset=offset, length=length).data


def pem(der: bytes, label: str = "CERTIFICATE", eol: str = "\n") -> bytes:
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return eol.join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


@given(st.dictionaries(st.uuids().map(str), st.binary(min_size=1, max_size=50), max_size=8))
def test_build_and_parse_are_mirror_images(entries: dict[str, bytes]) -> None:
    entries.pop("00000000-0000-0000-0000-000000000000", None)
    table = certtable.build(entries)
    assert certtable.parse(table) == entries
    assert certtable.build(certtable.parse(table)) == table
    assert certtable.parse(table + bytes(100)) == entries


@pytest.mark.parametrize("empty", [b"", bytes(24), bytes(4096)])
def test_no_table_and_an_empty_one_have_no_entries(empty: bytes) -> None:
    assert certtable.parse(empty) == {}
    assert certtable.certificates(empty) == Endorsements()


END = bytes(24)


@pytest.mark.parametrize(
    ("table", "error"),
    [
        pytest.param(bytes(23), Truncated, id="no whole row"),
        pytest.param(row(A, 24, 1), Truncated, id="no last row"),
        pytest.param(row(A, 48, 5) + END + b"abcd", Truncated, id="beyond the end"),
        pytest.param(row(A, 2**32 - 1, 2**32 - 1) + END, Truncated, id="huge"),
        pytest.param(row(A, 47, 2) + END + b"ab", FormatError, id="inside the rows"),
        pytest.param(row(A, 0, 24) + END, FormatError, id="over the rows"),
        pytest.param(row(A, 48, 0) + END, FormatError, id="empty entry"),
        pytest.param(row(A, 72, 3) + row(B, 74, 2) + END + b"abcd", FormatError, id="overlap"),
        pytest.param(row(A, 72, 2) + row(B, 72, 2) + END + b"ab", FormatError, id="shared"),
        pytest.param(row(A, 72, 2) + row(A, 74, 2) + END + b"abcd", FormatError, id="twice"),
        pytest.param(row(A, 48, 2) + END + b"abX", FormatError, id="garbage behind"),
        pytest.param(row(A, 50, 2) + END + b"X\0ab", FormatError, id="garbage between"),
        pytest.param(row("00000000-0000-0000-0000-000000000000", 1, 0) + END, FormatError, id="last row not zero"),
        pytest.param(bytes(certtable.MAX_SIZE + 1), Oversized, id="too large"),
    ],
)
def test_bad_tables_are_refused(table: bytes, error: type[FormatError]) -> None:
    with pytest.raises(error) as caught:
        certtable.parse(table)
    assert caught.type is error


def test_too_many_entries_are_refused() -> None:
    entries = {f"00000000-0000-0000-0000-{n:012}": b"x" for n in range(1, 34)}
    with pytest.raises(Oversized, match="more than 32"):
        certtable.parse(certtable.build(entries))


def test_certificates_may_be_der_or_pem_and_chains() -> None:
    ark, ask, vcek, crl = (b"\x30" + bytes([n]) * 90 for n in range(4))
    table = certtable.build(
        {
            "VCEK": vcek,
            "ASK": pem(ask, eol="\r\n") + pem(ark) + b"\0\0",
            "ARK": pem(ark),
            "CRL": pem(crl, "X509 CRL"),
            "12345678-0000-0000-0000-000000000000": b"the host's own",
        }
    )
    assert certtable.certificates(table) == Endorsements((ark, ask, vcek), (crl,))


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"\0",
        pem(b"\x30\x00")[:-10],
        pem(b"\x30\x00") + b"more",
        b"-----BEGIN CERTIFICATE-----\nMAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMAB=\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END X509 CRL-----\n",
        b"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n",
    ],
)
def test_entries_that_are_neither_are_refused(content: bytes) -> None:
    if content == b"\0":
        assert certtable.certificates(certtable.build({"VCEK": content})) == Endorsements()
        return
    with pytest.raises(FormatError, match="VCEK"):
        certtable.certificates(certtable.build({"VCEK": content}))


@given(st.binary(max_size=400))
def test_anything_gives_a_table_or_a_typed_error(data: bytes) -> None:
    try:
        certtable.certificates(data)
    except FormatError as error:
        assert error.message
