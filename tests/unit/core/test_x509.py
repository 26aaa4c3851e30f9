"""Certificates and CRLs have one form: every part put together here by hand, and spoilt one by one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from agent.core.errors import FormatError, Oversized
from agent.core.x509 import Certificate, Crl, Extension, Profile, common_name, subject_public_key_info
from sim.der import bits, boolean, integer, octets, oid, sequence, tlv

ALGORITHM = sequence(oid("1.2.3"))
PROFILE = Profile("our own algorithm", frozenset({ALGORITHM}), max_crl=4096)
START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
NOT_BEFORE, NOT_AFTER = tlv(0x17, b"260101000000Z"), tlv(0x17, b"270101000000Z")
KEY = sequence(ALGORITHM, bits(b"key"))


def rdn(text: bytes, kind: str = "2.5.4.3") -> bytes:
    return tlv(0x31, sequence(oid(kind), tlv(0x0C, text)))


def extension(kind: str, value: bytes, *critical: bytes) -> bytes:
    return sequence(oid(kind), *critical, octets(value))


def usage(value: bytes) -> bytes:
    return extension("2.5.29.15", value, boolean(True))


def constraints(value: bytes) -> bytes:
    return extension("2.5.29.19", value, boolean(True))


CRITICAL_UNKNOWN = extension("2.5.29.36", b"", boolean(True))
MISSHAPEN = [
    extension("1.2", b"") * 2,
    sequence(oid("1.2")),
    extension("1.2", b"", boolean(False)),
    extension("1.2", b"", tlv(1, b"\x01")),
    sequence(oid("1.2"), octets(b""), octets(b"")),
    sequence(),
    tlv(0x31, oid("1.2"), octets(b"")),
    CRITICAL_UNKNOWN,
]


@dataclass(frozen=True)
class Parts:
    """A certificate's."""

    version: bytes = tlv(0xA0, integer(2))
    serial: bytes = integer(5)
    algorithm: bytes = ALGORITHM
    issuer: bytes = sequence(rdn(b"issuer"))
    validity: bytes = sequence(NOT_BEFORE, NOT_AFTER)
    subject: bytes = sequence(rdn(b"Here", "2.5.4.7"), rdn(b"subject"))
    key: bytes = KEY
    extensions: bytes = tlv(0xA3, sequence(extension("1.2", b"v")))
    outer: bytes = ALGORITHM
    signature: bytes = bits(b"signature")

    def tbs(self) -> bytes:
        names = self.issuer, self.validity, self.subject
        return sequence(self.version, self.serial, self.algorithm, *names, self.key, self.extensions)

    def der(self) -> bytes:
        return sequence(self.tbs(), self.outer, self.signature)


@dataclass(frozen=True)
class List:
    """A CRL's parts."""

    version: bytes = integer(1)
    algorithm: bytes = ALGORITHM
    times: bytes = NOT_BEFORE + NOT_AFTER
    revoked: bytes = b""
    extensions: bytes = tlv(0xA0, sequence(extension("2.5.29.20", integer(1))))
    outer: bytes = ALGORITHM

    def der(self) -> bytes:
        issuer = Parts.issuer
        tbs = sequence(self.version, self.algorithm, issuer, self.times, self.revoked, self.extensions)
        return sequence(tbs, self.outer, Parts.signature)


def parsed(parts: Parts) -> Certificate:
    return Certificate.parse(parts.der(), PROFILE)


def with_extensions(*entries: bytes) -> Parts:
    return Parts(extensions=tlv(0xA3, sequence(*entries)))


def test_a_certificate_is_read_as_it_was_made() -> None:
    read = parsed(Parts())
    assert (read.der, read.tbs, read.signature) == (Parts().der(), Parts().tbs(), b"signature")
    assert (read.issuer, read.subject, read.common_name, read.serial) == (Parts.issuer, Parts.subject, "subject", 5)
    assert (read.not_before, read.not_after) == (START, END)
    assert read.extensions == {b"\x2a": Extension(critical=False, value=b"v")}
    assert (read.spki, read.spki_sha256) == (KEY, hashlib.sha256(KEY).digest())
    assert subject_public_key_info(Parts().der()) == KEY
    assert (read.authority(), read.key_usage()) == (False, None)
    assert parsed(Parts(extensions=b"")).extensions == {}


@pytest.mark.parametrize(
    "parts",
    [
        Parts(version=tlv(0xA0, integer(1))),
        Parts(version=tlv(0xA0, integer(2), integer(2))),
        Parts(version=b""),
        Parts(serial=tlv(2, b"\x80")),
        Parts(algorithm=sequence(oid("1.2.4"))),
        Parts(outer=sequence(oid("1.2.4"))),
        Parts(algorithm=sequence(oid("1.2.4")), outer=sequence(oid("1.2.4"))),
        Parts(algorithm=sequence(oid("1.2.3"), b"\x05\x00")),
        Parts(validity=sequence(NOT_BEFORE)),
        Parts(validity=sequence(NOT_BEFORE, NOT_AFTER, NOT_AFTER)),
        Parts(subject=sequence(rdn(b"one"), rdn(b"two"))),
        Parts(subject=sequence(rdn(b"\x1b[2J"))),
        Parts(subject=sequence(tlv(0x30, rdn(b"one")))),
        Parts(key=b""),
        Parts(extensions=tlv(0xA3, sequence(), sequence())),
        Parts(extensions=tlv(0xA1, b"")),
        Parts(signature=tlv(3, b"\x01signature")),
        Parts(signature=bits(b"signature") + b"\x05\x00"),
        *[with_extensions(entries) for entries in MISSHAPEN],
    ],
)
def test_other_certificates_are_refused(parts: Parts) -> None:
    with pytest.raises(FormatError):
        parsed(parts)


def test_nothing_may_follow_and_sizes_are_bounded() -> None:
    for data in (Parts().der() + b"\0", b"\x30\x82" + Parts().der()[1:]):
        with pytest.raises(FormatError):
            Certificate.parse(data, PROFILE)
    with pytest.raises(Oversized, match="16384 are allowed"):
        Certificate.parse(bytes(16385), PROFILE)
    with pytest.raises(Oversized, match="4096 are allowed"):
        Crl.parse(bytes(4097), PROFILE)


@pytest.mark.parametrize(
    ("value", "authority"),
    [(sequence(boolean(True)), True), (sequence(boolean(True), integer(0)), True), (sequence(), False)],
)
def test_basic_constraints(value: bytes, authority: bool) -> None:
    assert parsed(with_extensions(constraints(value))).authority() is authority


@pytest.mark.parametrize("value", [b"", boolean(True), sequence(boolean(True)) + b"\0", sequence(tlv(1, b"\x01"))])
def test_basic_constraints_of_another_form(value: bytes) -> None:
    with pytest.raises(FormatError):
        parsed(with_extensions(constraints(value))).authority()


def test_key_usage() -> None:
    assert parsed(with_extensions(usage(tlv(3, b"\x01\x06")))).key_usage() == 6
    assert parsed(with_extensions(usage(tlv(3, b"\x07\x80\x80")))).key_usage() == 0x80
    assert parsed(with_extensions(usage(tlv(3, b"\0")))).key_usage() == 0
    for value in (
        b"",
        tlv(3, b""),
        tlv(3, b"\1"),
        tlv(3, b"\x08\x80"),
        tlv(3, b"\x07\x80") + b"\0",
        tlv(4, b"\x07\x80"),
    ):
        with pytest.raises(FormatError):
            parsed(with_extensions(usage(value))).key_usage()


def test_common_names() -> None:
    assert common_name(sequence()) == ""
    assert common_name(sequence(rdn(b"Engineering", "2.5.4.11"))) == ""
    both = sequence(oid("2.5.4.10"), tlv(0x0C, b"x")), sequence(oid("2.5.4.3"), tlv(0x13, b"name"))
    assert common_name(sequence(tlv(0x31, *both))) == "name"
    value_like_one = sequence(oid("2.5.4.10"), octets(oid("2.5.4.3")))
    assert common_name(sequence(tlv(0x31, value_like_one))) == ""
    for hostile in (b"", b"\x31\x7f", sequence(rdn(b"a\x1b[2J")), sequence(rdn(b"a"), rdn(b"b"))):
        with pytest.raises(FormatError) as caught:
            common_name(hostile)
        assert caught.value.message.isprintable()


def test_a_crl_is_read_as_it_was_made() -> None:
    read = Crl.parse(List().der(), PROFILE)
    assert (read.issuer, read.this_update, read.next_update, read.revoked) == (Parts.issuer, START, END, b"")


@pytest.mark.parametrize(
    "parts",
    [
        List(version=integer(0)),
        List(version=b""),
        List(outer=sequence(oid("1.2.4"))),
        List(algorithm=sequence(oid("1.2.4"))),
        List(times=NOT_BEFORE),
        List(times=NOT_BEFORE + NOT_AFTER + NOT_AFTER),
        List(extensions=b""),
        List(extensions=tlv(0xA0, sequence(usage(tlv(3, b"\x01\x06"))))),
        *[List(extensions=tlv(0xA0, sequence(entries))) for entries in MISSHAPEN],
    ],
)
def test_other_crls_are_refused(parts: List) -> None:
    with pytest.raises(FormatError):
        Crl.parse(parts.der(), PROFILE)


def revoking(*entries: bytes) -> Crl:
    return Crl.parse(replace(List(), revoked=sequence(*entries)).der(), PROFILE)


def test_a_serial_number_is_found_where_it_is_listed() -> None:
    reason = sequence(extension("2.5.29.21", tlv(0x0A, b"\x04")))
    listing = revoking(sequence(integer(3), NOT_BEFORE, reason), sequence(integer(0x10080), NOT_AFTER))
    assert (listing.revoked_at(3), listing.revoked_at(0x10080)) == (START, END)
    assert [listing.revoked_at(number) for number in (0, 1, 0x80, 0x100, 0x300, 0x1008)] == [None] * 6
    assert Crl.parse(List().der(), PROFILE).revoked_at(0) is None


@pytest.mark.parametrize("entry", [sequence(integer(3)), sequence(NOT_BEFORE, integer(3)), integer(3)])
def test_a_misshapen_list_is_an_error_not_a_no(entry: bytes) -> None:
    with pytest.raises(FormatError):
        revoking(sequence(integer(4), NOT_BEFORE), entry).revoked_at(3)
