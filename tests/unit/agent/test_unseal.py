"""The wrapping key and what it opens."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.core.errors import SecretError
from agent.core.exchange import Attempt, Wrapped
from agent.unseal import WrappingKey
from tests.support.fake_tas import wrap
from tests.unit.agent.test_exchange import NONCE, reply

KEY = WrappingKey()


def parsed(secret_key: dict[str, str]) -> Wrapped:
    attempt = Attempt("disk")
    attempt.nonce_answer(reply(200, {"nonce": NONCE}))
    return attempt.secret_answer(reply(200, {"secret_key": secret_key}))


def opened(secret_key: dict[str, str]) -> bytes:
    with KEY.unseal(parsed(secret_key)) as secret:
        return bytes(secret.reveal())


def refused(secret_key: dict[str, str]) -> str:
    with pytest.raises(SecretError) as caught:
        opened(secret_key)
    return caught.value.code


def test_the_key_is_rsa_3072_in_pkcs1() -> None:
    public = load_der_public_key(KEY.public_der)
    assert isinstance(public, rsa.RSAPublicKey)
    assert (public.key_size, public.public_numbers().e) == (3072, 65537)
    assert KEY.public_der[4:9] == bytes.fromhex("0282018100")  # SEQUENCE { INTEGER n ...: PKCS#1, no SPKI


def test_every_key_is_new() -> None:
    assert WrappingKey().public_der != KEY.public_der


@pytest.mark.parametrize("algorithm", ["AES-GCM", "AES-KWP"])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 4096])
def test_round_trip(algorithm: str, size: int) -> None:
    secret = os.urandom(size)
    assert opened(wrap(KEY.public_der, secret, algorithm)) == secret


def test_wrapped_for_another_key() -> None:
    assert refused(wrap(WrappingKey().public_der, b"s" * 32)) == "secret.wrapped-key"


def flipped(secret_key: dict[str, str], name: str) -> dict[str, str]:
    data = bytearray(base64.b64decode(secret_key[name]))
    data[-1] ^= 1
    return {**secret_key, name: base64.b64encode(data).decode()}


@pytest.mark.parametrize("name", ["blob", "iv", "tag", "wrapped_key"])
def test_tampered_gcm(name: str) -> None:
    expected = "secret.wrapped-key" if name == "wrapped_key" else "secret.tampered"
    assert refused(flipped(wrap(KEY.public_der, b"s" * 32), name)) == expected


def test_tampered_kwp() -> None:
    assert refused(flipped(wrap(KEY.public_der, b"s" * 32, "AES-KWP"), "blob")) == "secret.tampered"


@pytest.mark.parametrize("size", [1, 383, 385, 512])
def test_wrapped_keys_of_other_lengths(size: int) -> None:
    sealed = wrap(KEY.public_der, b"s" * 32)
    assert refused({**sealed, "wrapped_key": base64.b64encode(b"\1" * size).decode()}) == "secret.wrapped-key"


def test_empty_secret() -> None:
    assert refused(wrap(KEY.public_der, b"")) == "secret.empty"


def sealed_key(value: bytes, how: Any) -> dict[str, str]:
    public = load_der_public_key(KEY.public_der)
    assert isinstance(public, rsa.RSAPublicKey)
    wrapped = base64.b64encode(public.encrypt(value, how)).decode()
    return {**wrap(KEY.public_der, b"s" * 32), "wrapped_key": wrapped}


@pytest.mark.parametrize("size", [16, 24, 31, 33, 64])
def test_an_aes_key_of_another_size(size: int) -> None:
    oaep = padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=None)
    assert refused(sealed_key(bytes(size), oaep)) == "secret.wrapped-key"


def test_other_paddings() -> None:
    weak = padding.OAEP(mgf=padding.MGF1(SHA1()), algorithm=SHA1(), label=None)
    assert refused(sealed_key(bytes(32), weak)) == "secret.wrapped-key"
    labelled = padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=b"x")
    assert refused(sealed_key(bytes(32), labelled)) == "secret.wrapped-key"


def test_no_secret_in_repr() -> None:
    assert repr(KEY.unseal(parsed(wrap(KEY.public_der, b"topsecret")))) == "Secret(9 bytes)"
