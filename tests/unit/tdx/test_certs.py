"""Forms that are accepted: DER frames, PEM text, the SGX extension."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.core.errors import ChainInvalid, FormatError, Revoked, SignatureInvalid, TeeAgentError
from tdx import chain, der, pck
from tdx.certs import MAX_CERTIFICATE, MAX_CRL, frame_crl, load_certificate, load_crl, point
from tests.unit.tdx.world import COMPONENTS, FMSPC, NOW, PCESVN, World, key, member, number, sgx_extension, tlv
from tests.unit.tdx.world import point as raw_point


def test_certificate() -> None:
    loaded = load_certificate(World().ca.der(), "it")
    assert (loaded.name, loaded.issuer_name, loaded.serial, str(loaded)) == ("ca", "root", 2, '"ca"')
    assert loaded.not_before < NOW < loaded.not_after
    assert loaded.spki_sha256 != World().anchor().spki_sha256
    assert load_certificate(World().root.der(), "it").spki_sha256 == World().anchor().spki_sha256


def _bits(data: bytes) -> list[bytes]:
    flipped = []
    for bit in range(len(data) * 8):
        copy = bytearray(data)
        copy[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(copy))
    return flipped


def test_every_bit_of_a_certificate_counts() -> None:
    world = World()
    good, root = world.leaf.der(), load_certificate(world.ca.der(), "ca")
    load_certificate(good, "leaf").require_issued_by(root)
    for spoilt in _bits(good):
        with pytest.raises(ChainInvalid):
            load_certificate(spoilt, "leaf").require_issued_by(root)


def test_every_bit_of_a_crl_counts() -> None:
    world = World()
    good, ca = world.pck_crl.der(), load_certificate(world.ca.der(), "ca")
    load_crl(good, frame_crl(good), ca)
    for spoilt in _bits(good):
        with pytest.raises(ChainInvalid):
            load_crl(spoilt, frame_crl(spoilt), ca)


def test_sizes_are_bounded() -> None:
    with pytest.raises(ChainInvalid, match="are allowed"):
        load_certificate(bytes(MAX_CERTIFICATE + 1), "it")
    with pytest.raises(ChainInvalid, match="are allowed"):
        frame_crl(bytes(MAX_CRL + 1))


PEM = b"".join(map(chain.to_pem, World().certificates()))


@pytest.mark.parametrize("text", [PEM, PEM + b"\0", PEM[:-1], PEM[:-1] + b"\0"])
def test_pem_accepted(text: bytes) -> None:
    assert chain.split_pem(text) == chain.split_pem(PEM)
    assert b"".join(map(chain.to_pem, chain.split_pem(text))) == PEM


def _one_line() -> bytes:
    body = base64.b64encode(World().leaf.der())
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    "text",
    [
        PEM + b"\0\0",
        PEM + b"\n",
        b" " + PEM,
        PEM.replace(b"\n", b"\r\n"),
        PEM.replace(b"-----END CERTIFICATE-----\n", b"-----END CERTIFICATE-----", 1) + b"x",
        PEM.replace(b"BEGIN CERT", b"BEGIN X509 CERT"),
        _one_line(),
        b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
        b"junk",
    ],
)
def test_pem_refused(text: bytes) -> None:
    with pytest.raises(ChainInvalid, match="PEM"):
        chain.split_pem(text)


def test_sgx_extension() -> None:
    platform = pck.parse_extension(sgx_extension())
    assert platform.components == COMPONENTS
    assert (platform.pcesvn, platform.fmspc, platform.pceid) == (PCESVN, FMSPC, b"\0\0")


def _replaced(number_of: int, value: bytes | None) -> bytes:
    parts = der.children(der.only(sgx_extension(), der.SEQUENCE))
    made = [tlv(tag, content) for tag, content in parts]
    made[number_of - 1] = b"" if value is None else value
    return tlv(0x30, b"".join(made))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        sgx_extension() + b"\0",
        sgx_extension(fmspc=b"short"),
        sgx_extension(components=COMPONENTS[:15]),
        sgx_extension(components=(*COMPONENTS[:15], 256)),
        sgx_extension(pcesvn=1 << 16),
        _replaced(1, None),
        _replaced(1, member((1,), number(5))),
        _replaced(1, member((9, 9), tlv(4, bytes(16)))),
        _replaced(1, member((2,), tlv(0x30, b""))),
        _replaced(1, tlv(4, b"")),
        _replaced(3, member((3,), tlv(4, bytes(3)))),
    ],
)
def test_sgx_extension_refused(value: bytes) -> None:
    with pytest.raises(FormatError):
        pck.parse_extension(value)


def test_every_flipped_bit_of_the_extension_is_typed() -> None:
    for spoilt in _bits(sgx_extension()):
        try:
            pck.parse_extension(spoilt)
        except TeeAgentError as error:
            assert isinstance(error, FormatError)


@pytest.mark.parametrize(
    "data", [b"", b"\x30", b"\x30\x05\0", b"\x30\x80\0\0", b"\x30\x81\x05" + bytes(5), b"\x30\x84" + bytes(9)]
)
def test_der_lengths(data: bytes) -> None:
    with pytest.raises(FormatError):
        der.element(data)


@pytest.mark.parametrize("content", [b"", b"\x80", b"\0\1"])
def test_der_integers(content: bytes) -> None:
    with pytest.raises(FormatError):
        der.integer(content)


def test_names_from_strangers_are_harmless() -> None:
    hostile = tlv(0x31, tlv(0x30, tlv(6, bytes.fromhex("550403")) + tlv(12, b"a\x1b[2J")))
    assert der.common_name(hostile) == "?"
    assert der.common_name(b"") == "?"
    assert der.common_name(b"\x31\x7f") == "?"


def _encoded(text: str) -> bytes:
    """By another encoder: the OID as that of an otherwise empty Name attribute."""
    attribute = x509.NameAttribute(x509.ObjectIdentifier(text), "x")
    rdn = der.children(der.only(x509.Name([attribute]).public_bytes(), der.SEQUENCE))[0][1]
    return tlv(*der.children(der.children(rdn)[0][1])[0])


@pytest.mark.parametrize("text", ["1.2.840.113741.1.13.1", "2.5.29.19", "1.2.3.4", "2.999.1", "0.9"])
def test_dotted(text: str) -> None:
    assert der.dotted(der.only(_encoded(text), der.OID)) == text


MOMENTS = [
    (der.UTC_TIME, b"260601120000Z", datetime(2026, 6, 1, 12, tzinfo=UTC)),
    (der.UTC_TIME, b"491231235959Z", datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
    (der.UTC_TIME, b"500101000000Z", datetime(1950, 1, 1, tzinfo=UTC)),
    (der.GENERALIZED_TIME, b"20500101000000Z", datetime(2050, 1, 1, tzinfo=UTC)),
]


@pytest.mark.parametrize(("tag", "content", "expected"), MOMENTS)
def test_moments(tag: int, content: bytes, expected: datetime) -> None:
    assert der.moment(tag, content) == expected


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        (der.UTC_TIME, b""),
        (der.UTC_TIME, b"2606011200Z"),
        (der.UTC_TIME, b"260601120000+"),
        (der.UTC_TIME, b"20260601120000Z"),
        (der.UTC_TIME, b"261301120000Z"),
        (der.GENERALIZED_TIME, b"260601120000Z"),
        (der.GENERALIZED_TIME, b"20260601120000.5Z"),
        (der.GENERALIZED_TIME, "2026060112000²Z".encode("latin-1")),
        (der.OCTET_STRING, b"20500101000000Z"),
    ],
)
def test_moments_refused(tag: int, content: bytes) -> None:
    with pytest.raises(FormatError):
        der.moment(tag, content)


def _extension(*parts: bytes) -> bytes:
    return tlv(0x30, tlv(6, b"\x2a") + b"".join(parts))


@pytest.mark.parametrize(
    "entries",
    [
        _extension(tlv(4, b"")) * 2,
        _extension(),
        _extension(tlv(1, b"\0"), tlv(4, b"")),
        _extension(tlv(1, b"\x01"), tlv(4, b"")),
        _extension(tlv(4, b""), tlv(4, b"")),
        tlv(0x30, b""),
        tlv(0x31, tlv(6, b"\x2a") + tlv(4, b"")),
    ],
)
def test_extensions_refused(entries: bytes) -> None:
    assert der.extensions(tlv(0x30, _extension(tlv(1, b"\xff"), tlv(4, b"v")))) == {b"\x2a": (True, b"v")}
    with pytest.raises(FormatError):
        der.extensions(tlv(0x30, entries))


def test_a_listed_serial_is_found_and_its_bytes_elsewhere_are_not_it() -> None:
    world = World()
    ca, leaf = load_certificate(world.ca.der(), "ca"), load_certificate(world.leaf.der(), "leaf")
    for revoked, listed in (((3,), True), ((1, 2, 3, 4), True), ((0x0300,), False), ((0x0103,), False), ((), False)):
        crl = replace(world.pck_crl, revoked=revoked).der()
        loaded = load_crl(crl, frame_crl(crl), ca)
        if listed:
            with pytest.raises(Revoked):
                loaded.require_not_revoked(leaf)
        else:
            loaded.require_not_revoked(leaf)


def test_reads_what_the_library_reads() -> None:
    """Against the X.509 parser of the cryptography package."""
    for der_bytes in (*World().certificates(), World().signer.der()):
        ours, theirs = load_certificate(der_bytes, "it"), x509.load_der_x509_certificate(der_bytes)
        assert (ours.not_before, ours.not_after) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
        assert (ours.serial, ours.key) == (theirs.serial_number, theirs.public_key())
        assert tlv(0x30, ours.subject) == theirs.subject.public_bytes()
        assert tlv(0x30, ours.issuer) == theirs.issuer.public_bytes()
        assert ours.frame.data == theirs.tbs_certificate_bytes
        assert ours.frame.signature == theirs.signature
        read = {der.dotted(oid): critical for oid, (critical, _) in ours.extensions().items()}
        assert read == {one.oid.dotted_string: one.critical for one in theirs.extensions}


def _signed(parts: list[tuple[int, bytes]], signer: str) -> bytes:
    """A signed object of these elements."""
    covered = tlv(0x30, b"".join(tlv(tag, content) for tag, content in parts))
    signature = key(signer).sign(covered, ec.ECDSA(hashes.SHA256()))
    return tlv(0x30, covered + tlv(0x30, der.ECDSA_SHA256) + tlv(3, b"\0" + signature))


def test_a_crl_says_when_the_next_one_comes() -> None:
    world = World()
    ca, parts = load_certificate(world.ca.der(), "ca"), frame_crl(world.pck_crl.der()).parts
    same = _signed(parts, "ca")
    load_crl(same, frame_crl(same), ca)
    without = _signed(parts[:4] + parts[5:], "ca")
    with pytest.raises(ChainInvalid, match="next update"):
        load_crl(without, frame_crl(without), ca)


def test_a_validity_is_two_times() -> None:
    parts = load_certificate(World().leaf.der(), "leaf").frame.parts
    assert load_certificate(_signed(parts, "ca"), "leaf").name == "pck"
    parts[4] = (0x30, parts[4][1] * 2)
    with pytest.raises(ChainInvalid, match="two times"):
        load_certificate(_signed(parts, "ca"), "leaf")


def test_keys_are_points_of_the_curve() -> None:
    assert point(raw_point(key("pck"))) == key("pck").public_key()
    for raw in (bytes(64), b"\xff" * 64):
        with pytest.raises(SignatureInvalid, match="not a point"):
            point(raw)
    parts = load_certificate(World().leaf.der(), "leaf").frame.parts
    parts[6] = (0x30, parts[6][1][:-64] + bytes(64))
    with pytest.raises(ChainInvalid, match="not a point"):
        load_certificate(_signed(parts, "ca"), "leaf")
    parts[6] = (0x30, parts[6][1][:-1])
    with pytest.raises(ChainInvalid, match="not a P-256 key"):
        load_certificate(_signed(parts, "ca"), "leaf")
