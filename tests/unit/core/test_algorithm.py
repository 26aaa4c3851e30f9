"""The forms of public keys and signatures, against the cryptography package's own."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core import algorithm
from agent.core.algorithm import ALGORITHMS, Algorithm
from agent.core.errors import FormatError
from agent.verify.signature import verifies

CURVES = {
    "ECDSA-P256": (ec.SECP256R1(), hashes.SHA256()),
    "ECDSA-P384": (ec.SECP384R1(), hashes.SHA384()),
    "ECDSA-secp256k1": (ec.SECP256K1(), hashes.SHA256()),
}
EC = [ALGORITHMS[name] for name in CURVES]
ALL = list(ALGORITHMS.values())


def spki_of(one: Algorithm) -> bytes:
    key = ec.generate_private_key(CURVES[one.name][0]) if one.order else ed25519.Ed25519PrivateKey.generate()
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_the_spki_is_exactly_the_one_that_the_library_writes(one: Algorithm) -> None:
    spki = spki_of(one)
    one.require_spki(spki)
    for other in (spki[:-1], spki + b"\0", b"", bytes(len(spki)), spki[: -one.key_size] + b"\0" * (one.key_size - 1)):
        with pytest.raises(FormatError, match=one.name):
            one.require_spki(other)
    for foreign in ALL:
        if foreign is not one:
            with pytest.raises(FormatError):
                foreign.require_spki(spki)
    for index in range(len(spki) - one.key_size):
        with pytest.raises(FormatError):
            one.require_spki(spki[:index] + bytes([spki[index] ^ 1]) + spki[index + 1 :])


@pytest.mark.parametrize("one", EC, ids=lambda one: one.name)
def test_orders_and_hashes_are_the_curves(one: Algorithm) -> None:
    curve, digest = CURVES[one.name]
    # n * G is the point at infinity, so (n - 1) * G = -G: the same x as G.
    last = ec.derive_private_key(one.order - 1, curve).public_key().public_numbers()
    first = ec.derive_private_key(1, curve).public_key().public_numbers()
    assert last.x == first.x
    assert last.y != first.y
    assert (one.digest_size, one.signature_size) == (digest.digest_size, 2 * ((curve.key_size + 7) // 8))
    assert hashlib.new(one.hash.replace("-", "")).digest_size == one.digest_size


@pytest.mark.parametrize("one", EC, ids=lambda one: one.name)
def test_der_there_and_back(one: Algorithm) -> None:
    half = one.signature_size // 2
    for r, s in ((1, 1), (127, 128), (one.order - 1, one.order // 2), (1 << (8 * half - 9), 255)):
        fixed = r.to_bytes(half, "big") + s.to_bytes(half, "big")
        encoded = one.to_der(fixed)
        assert encoded == utils.encode_dss_signature(r, s)
        assert one.from_der(encoded) == fixed


@pytest.mark.parametrize("one", EC, ids=lambda one: one.name)
def test_no_der_but_der(one: Algorithm) -> None:
    good = utils.encode_dss_signature(5, 7)
    for bad in (
        b"",
        good[:-1],
        good + b"\0",
        b"\x30\x07\x02\x02\x00\x05\x02\x01\x07",
        b"\x30\x06\x02\x01\x85\x02\x01\x07",
    ):
        with pytest.raises(FormatError):
            one.from_der(bad)
    for r, s in ((one.order, 1), (1, one.order), (1 << 4000, 1)):
        with pytest.raises(FormatError):
            one.from_der(utils.encode_dss_signature(r, s))


@pytest.mark.parametrize("one", EC, ids=lambda one: one.name)
def test_only_the_lower_s_is_taken(one: Algorithm) -> None:
    curve, digest = CURVES[one.name]
    private = ec.generate_private_key(curve)
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    made = one.canonical(one.from_der(private.sign(b"data", ec.ECDSA(digest))))
    half = one.signature_size // 2
    twin = made[:half] + (one.order - int.from_bytes(made[half:], "big")).to_bytes(half, "big")
    private.public_key().verify(one.to_der(twin), b"data", ec.ECDSA(digest))  # the mathematics takes it
    assert verifies(one, spki, made, b"data")
    assert not verifies(one, spki, twin, b"data")
    assert one.canonical(twin) == one.canonical(made) == made


@pytest.mark.parametrize("one", EC, ids=lambda one: one.name)
def test_values_out_of_range_are_not_canonical(one: Algorithm) -> None:
    half = one.signature_size // 2
    good = (1).to_bytes(half, "big")
    assert one.is_canonical(good + good)
    for bad in (bytes(half), one.order.to_bytes(half, "big")):
        assert not one.is_canonical(bad + good)
        assert not one.is_canonical(good + bad)
    assert not one.is_canonical(good + (one.order // 2 + 1).to_bytes(half, "big"))
    assert not one.is_canonical(good + good + b"\0")


def test_ed25519_has_one_form_only() -> None:
    one = ALGORITHMS["Ed25519"]
    signature = bytes(range(64))
    assert one.to_der(signature) == one.from_der(signature) == one.canonical(signature) == signature
    assert one.is_canonical(signature)
    assert not one.is_canonical(signature[1:])
    assert one.digest_size == 0


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_key_that_is_no_point_verifies_nothing(one: Algorithm) -> None:
    half = one.signature_size // 2
    signature = (1).to_bytes(half, "big") * 2
    assert not verifies(one, one.spki_prefix + b"\xff" * one.key_size, signature, b"data")
    assert not verifies(one, spki_of(one), signature, b"data")


def test_unknown_algorithms_are_refused() -> None:
    assert algorithm.find("ECDSA-P384") is ALGORITHMS["ECDSA-P384"]
    assert algorithm.SPKI_SIZES == (44, 120)
    for name in ("", "ed25519", "RSA", "ECDSA-P521"):
        with pytest.raises(FormatError, match="ECDSA-secp256k1"):
            algorithm.find(name)
