"""AMD's certificates and CRLs: hostile bytes give typed errors only."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FormatError, Oversized
from agent.core.x509 import Certificate
from snp import certs
from tests.unit.snp.hierarchy import NOW, YEAR, crl, world


def test_a_certificate_is_read_as_it_was_made() -> None:
    sound = world()
    leaf = certs.parse_certificate(sound.leaf.der())
    issuer = certs.parse_certificate(sound.issuer.der())
    assert (leaf.common_name, leaf.serial, leaf.not_before, leaf.not_after) == ("SEV-VCEK", 1, NOW - YEAR, NOW + YEAR)
    assert (certs.is_authority(leaf), certs.is_authority(issuer)) == (False, True)
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
    assert parsed.revoked_at(3) == parsed.revoked_at(0x10001) == parsed.this_update
    assert [parsed.revoked_at(serial) for serial in (0, 1, 0x10000, 0x100)] == [None] * 4
    assert parsed.next_update > NOW > parsed.this_update
    assert certs.parse_crl(crl()).revoked == b""


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
            if isinstance(parsed, Certificate):
                certs.leaf_values(parsed)
                certs.ec_key(parsed)
                certs.is_authority(parsed)
        except FormatError as error:
            assert error.message


_LEAF, _CRL = world().leaf.der(), crl(revoked=[9, 10])


def test_reading_warns_of_nothing() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        certs.leaf_values(certs.parse_certificate(_LEAF))
    assert caught == []
