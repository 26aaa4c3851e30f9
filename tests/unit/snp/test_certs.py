"""DER and certificates: shortest forms only, hostile bytes give typed errors only."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FormatError, Oversized
from snp import certs
from snp.der import INTEGER, SEQUENCE, Reader
from tests.unit.snp.hierarchy import NOW, YEAR, crl, world


def reader(data: bytes) -> Reader:
    return Reader(data, "thing")


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (b"", lambda r: r.inside(SEQUENCE)),
        (b"\x30", lambda r: r.inside(SEQUENCE)),
        (b"\x31\x00", lambda r: r.inside(SEQUENCE)),
        (b"\x30\x01", lambda r: r.inside(SEQUENCE)),
        (b"\x30\x80\x00\x00", lambda r: r.inside(SEQUENCE)),
        (b"\x30\x81\x01\x00", lambda r: r.inside(SEQUENCE)),
        (b"\x30\x82\x00\x80" + bytes(128), lambda r: r.inside(SEQUENCE)),
        (b"\x30\x84\x01\x00\x00\x00", lambda r: r.inside(SEQUENCE)),
        (b"\x30\x82\x01", lambda r: r.inside(SEQUENCE)),
        (b"\x02\x00", Reader.integer),
        (b"\x02\x02\x00\x7f", Reader.integer),
        (b"\x02\x01\x80", Reader.integer),
        (b"\x01\x01\x01", Reader.boolean),
        (b"\x03\x00", Reader.bits),
        (b"\x03\x02\x01\x80", Reader.bits),
        (b"\x04\x01a", Reader.text),
        (b"\x13\x01\xe9", Reader.text),
        (b"\x0c\x01\xff", Reader.text),
        (b"\x17\x0b2601010000Z", Reader.time),
        (b"\x17\x0d261301000000Z", Reader.time),
        (b"\x17\x0d260101 00000Z", Reader.time),
        (b"\x17\x0d2601010000000", Reader.time),
        (b"\x18\x0f20260101000061Z", Reader.time),
        (b"\x04\x01a", Reader.time),
        (b"\x00", Reader.finish),
    ],
)
def test_other_spellings_of_der_are_refused(data: bytes, read: Callable[[Reader], Any]) -> None:
    with pytest.raises(FormatError, match="thing: "):
        read(reader(data))


def test_der_in_its_shortest_form_is_read() -> None:
    outer = reader(b"\x30\x81\x80\x02\x02\x00\x80" + b"\x04\x7a" + bytes(122))
    inner = outer.inside(SEQUENCE)
    outer.finish()
    assert (inner.tag(), inner.integer()) == (INTEGER, 128)
    assert inner.element(4) == b"\x04\x7a" + bytes(122)
    assert inner.tag() == -1
    assert reader(b"\x01\x01\xff").boolean()
    assert not reader(b"\x01\x01\x00").boolean()
    assert reader(b"\x03\x03\x00ab").bits() == b"ab"


@pytest.mark.parametrize(
    ("text", "year"), [(b"491231235959Z", 2049), (b"500101000000Z", 1950), (b"680101000000Z", 1968), (b"99", 0)]
)
def test_two_digit_years_run_from_1950_to_2049(text: bytes, year: int) -> None:
    data = b"\x17" + bytes([len(text)]) + text
    if year:
        assert reader(data).time().year == year
    else:
        with pytest.raises(FormatError):
            reader(data).time()


def test_four_digit_years() -> None:
    assert reader(b"\x18\x0f20500102030405Z").time() == datetime(2050, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_certificate_is_read_as_it_was_made() -> None:
    sound = world()
    leaf = certs.parse_certificate(sound.leaf.der())
    issuer = certs.parse_certificate(sound.issuer.der())
    assert (leaf.common_name, leaf.serial, leaf.not_before, leaf.not_after) == ("SEV-VCEK", 1, NOW - YEAR, NOW + YEAR)
    assert (leaf.is_ca(), issuer.is_ca()) == (False, True)
    assert leaf.issuer == issuer.subject
    assert certs.signed_by(leaf, issuer)
    assert not certs.signed_by(issuer, issuer)
    values = certs.leaf_values(leaf)
    assert (values.product_name, values.struct_version, values.hwid, values.csp_id) == (
        "Milan",
        0,
        bytes(range(1, 65)),
        "",
    )
    assert values.spls == {
        "bootloader": 4, "tee": 0, "snp": 24, "microcode": 219, "spl_4": 0, "spl_5": 0, "spl_6": 0, "spl_7": 0
    }  # fmt: skip


def test_a_crl_is_read_as_it_was_made() -> None:
    parsed = certs.parse_crl(crl(revoked=[3, 0x10001]))
    assert set(parsed.revoked) == {3, 0x10001}
    assert parsed.next_update > NOW > parsed.this_update
    assert certs.parse_crl(crl()).revoked == {}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("2b060104019c78010305", "2b060104019c78010306", "there twice"),
        ("060355040b", "0603550403", "two common names"),
        ("a003020102", "a003020101", "not an X.509 version 3"),
    ],
)
def test_ambiguous_certificates_are_refused(old: str, new: str, problem: str) -> None:
    was, becomes = bytes.fromhex(old), bytes.fromhex(new)
    assert was in _LEAF
    with pytest.raises(FormatError, match=problem):
        certs.parse_certificate(_LEAF.replace(was, becomes))


def test_an_ec_key_signs_no_certificates() -> None:
    leaf = certs.parse_certificate(world().leaf.der())
    with pytest.raises(FormatError, match="not an RSA key"):
        certs.signed_by(leaf, leaf)


@pytest.mark.parametrize(("parse", "limit"), [(certs.parse_certificate, 16 * 1024), (certs.parse_crl, 1024 * 1024)])
def test_sizes_are_bounded(parse: Callable[[bytes], object], limit: int) -> None:
    with pytest.raises(Oversized, match="are allowed"):
        parse(bytes(limit + 1))


def test_every_truncation_is_a_typed_error() -> None:
    for parse, der in ((certs.parse_certificate, world().leaf.der()), (certs.parse_crl, crl(revoked=[9]))):
        for size in range(len(der)):
            with pytest.raises(FormatError):
                parse(der[:size])
        with pytest.raises(FormatError):
            parse(der + b"\0")


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_overwritten_bytes_give_a_result_or_a_typed_error(at: int, patch: bytes) -> None:
    for parse, der in ((certs.parse_certificate, _LEAF), (certs.parse_crl, _CRL)):
        data = bytearray(der)
        start = at % len(data)
        data[start : start + len(patch)] = patch
        try:
            parsed = parse(bytes(data))
            if isinstance(parsed, certs.Certificate):
                certs.leaf_values(parsed)
                certs.ec_key(parsed)
                parsed.is_ca()
        except FormatError as error:
            assert error.message


_LEAF, _CRL = world().leaf.der(), crl(revoked=[9, 10])


def test_reading_warns_of_nothing() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        certs.leaf_values(certs.parse_certificate(_LEAF))
    assert caught == []
