"""Forms that are accepted: certificates, CRLs, PEM text, the SGX extension."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from cryptography import x509

from agent.core.der import SEQUENCE, Reader, dotted
from agent.core.errors import ChainInvalid, FormatError, Revoked, SignatureInvalid, TeeAgentError
from agent.core.x509 import MAX_CERTIFICATE
from tdx import chain, pck
from tdx.certs import ECDSA_SHA256, PROFILE, is_rsa_signed, load_certificate, load_crl, point
from tests.unit.tdx.world import COMPONENTS, FMSPC, NOW, PCESVN, World, key, member, number, sgx_extension, tlv
from tests.unit.tdx.world import point as raw_point


def test_certificate() -> None:
    loaded = load_certificate(World().ca.der(), "it")
    assert (loaded.common_name, loaded.serial, str(loaded)) == ("ca", 2, '"ca"')
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
    load_crl(good).require_issued_by(ca)
    for spoilt in _bits(good):
        with pytest.raises(ChainInvalid):
            load_crl(spoilt).require_issued_by(ca)


def test_sizes_are_bounded() -> None:
    with pytest.raises(ChainInvalid, match="are allowed"):
        load_certificate(bytes(MAX_CERTIFICATE + 1), "it")
    with pytest.raises(ChainInvalid, match="are allowed"):
        load_crl(bytes(PROFILE.max_crl + 1))


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
    parts = Reader(sgx_extension(), "it").inside(SEQUENCE)
    made = [parts.element(SEQUENCE) for _ in range(5)]
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


def test_a_listed_serial_is_found_and_its_bytes_elsewhere_are_not_it() -> None:
    world = World()
    leaf = load_certificate(world.leaf.der(), "leaf")
    for revoked, listed in (((3,), True), ((1, 2, 3, 4), True), ((0x0300,), False), ((0x0103,), False), ((), False)):
        loaded = load_crl(replace(world.pck_crl, revoked=revoked).der())
        if listed:
            with pytest.raises(Revoked, match='"pck" with serial 0x3 is revoked by "ca"'):
                loaded.require_not_revoked(leaf)
        else:
            loaded.require_not_revoked(leaf)


def test_reads_what_the_library_reads() -> None:
    """Against the X.509 parser of the cryptography package."""
    for der_bytes in (*World().certificates(), World().signer.der()):
        ours, theirs = load_certificate(der_bytes, "it"), x509.load_der_x509_certificate(der_bytes)
        assert (ours.not_before, ours.not_after) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
        assert (ours.serial, ours.key) == (theirs.serial_number, theirs.public_key())
        assert ours.subject == theirs.subject.public_bytes()
        assert ours.issuer == theirs.issuer.public_bytes()
        assert ours.tbs == theirs.tbs_certificate_bytes
        assert ours.signature == theirs.signature
        read = {dotted(oid): extension.critical for oid, extension in ours.extensions.items()}
        assert read == {one.oid.dotted_string: one.critical for one in theirs.extensions}


def _with_key(spki: bytes) -> bytes:
    """The leaf with another SubjectPublicKeyInfo of the same length, its signature gone stale."""
    good = World().leaf.der()
    ours = load_certificate(good, "leaf").spki
    assert len(ours) == len(spki)
    return good.replace(ours, spki)


def test_keys_are_points_of_the_curve() -> None:
    assert point(raw_point(key("pck"))) == key("pck").public_key()
    for raw in (bytes(64), b"\xff" * 64):
        with pytest.raises(SignatureInvalid, match="not a point"):
            point(raw)
    spki = load_certificate(World().leaf.der(), "leaf").spki
    with pytest.raises(ChainInvalid, match="leaf is malformed: its key is not a point"):
        load_certificate(_with_key(spki[:-64] + bytes(64)), "leaf")
    with pytest.raises(ChainInvalid, match="not a P-256 key"):
        load_certificate(_with_key(spki.replace(bytes.fromhex("030107"), bytes.fromhex("030106"))), "leaf")


def test_another_vendors_crl_is_known_by_its_algorithm() -> None:
    ours = World().pck_crl.der()
    rsa = bytes.fromhex("300a06082a864886f70d0101")
    assert ours.count(ECDSA_SHA256) == 2
    assert is_rsa_signed(ours.replace(ECDSA_SHA256, rsa))
    for other in (ours, ours.replace(ECDSA_SHA256, rsa, 1), ours.replace(ECDSA_SHA256, rsa) + b"\0", b"", ours[:40]):
        assert not is_rsa_signed(other)
