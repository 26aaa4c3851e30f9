"""Forms that are accepted: DER frames, PEM text, the SGX extension."""

from __future__ import annotations

import base64

import pytest

from agent.core.errors import ChainInvalid, FormatError, TeeAgentError
from tdx import chain, der, pck
from tdx.certs import MAX_CERTIFICATE, MAX_CRL, frame_crl, load_certificate, load_crl
from tests.unit.tdx.world import COMPONENTS, FMSPC, NOW, PCESVN, World, member, number, sgx_extension, tlv


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
