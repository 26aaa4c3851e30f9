"""What the client unwraps is the secret, for every form of key; other keys are refused."""

from __future__ import annotations

import base64

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core.errors import FormatError
from agent.core.model import Secret
from tas.wrap import load_key, wrap

FORMS = [
    (Encoding.DER, PublicFormat.PKCS1),
    (Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    (Encoding.PEM, PublicFormat.PKCS1),
    (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
]


@pytest.fixture(scope="module")
def private() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def unwrap(private: rsa.RSAPrivateKey, sealed: dict[str, str]) -> bytes:
    parts = {name: base64.b64decode(value, validate=True) for name, value in sealed.items()}
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    aes = private.decrypt(parts["wrapped_key"], oaep)
    assert (len(aes), len(parts["iv"]), len(parts["tag"])) == (32, 12, 16)
    return AESGCM(aes).decrypt(parts["iv"], parts["blob"] + parts["tag"], None)


@pytest.mark.parametrize(("encoding", "form"), FORMS)
def test_round_trip(private: rsa.RSAPrivateKey, encoding: Encoding, form: PublicFormat) -> None:
    key = load_key(private.public_key().public_bytes(encoding, form))
    secret = bytes(range(64))
    assert unwrap(private, wrap(Secret(secret), key)) == secret


def test_every_answer_has_its_own_key_and_iv(private: rsa.RSAPrivateKey) -> None:
    one, two = (wrap(Secret(b"x" * 32), private.public_key()) for _ in range(2))
    assert not {name for name in one if one[name] == two[name]}


def test_changed_answer_does_not_open(private: rsa.RSAPrivateKey) -> None:
    sealed = wrap(Secret(b"x" * 32), private.public_key())
    blob = bytearray(base64.b64decode(sealed["blob"]))
    blob[0] ^= 1
    with pytest.raises(InvalidTag):
        unwrap(private, {**sealed, "blob": base64.b64encode(blob).decode()})


@pytest.mark.parametrize("bits", [1024, 2047, 4104])
def test_key_sizes(bits: int) -> None:
    # The number alone makes a public key: nothing needs its factors here.
    public = rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) + 1).public_key()
    with pytest.raises(FormatError, match=f"{bits} bits"):
        load_key(public.public_bytes(Encoding.DER, PublicFormat.PKCS1))


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_allowed_sizes(bits: int) -> None:
    public = rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) + 1).public_key()
    assert load_key(public.public_bytes(Encoding.DER, PublicFormat.PKCS1)).key_size == bits


def test_other_keys_and_no_keys() -> None:
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    encoded = [
        ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(*spki),
        ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*spki),
    ]
    junk = [
        b"",
        b"x",
        b"-----BEGIN PUBLIC KEY-----",
        b"-----BEGIN RSA PUBLIC KEY-----\nAAAA\n-----END RSA PUBLIC KEY-----",
    ]
    for data in [*encoded, *junk, b"\x30\x82\xff\xff" + bytes(100)]:
        with pytest.raises(FormatError) as caught:
            load_key(data)
        assert caught.value.code == "format.key"


def test_private_key_is_not_taken_for_a_public_one(private: rsa.RSAPrivateKey) -> None:
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    for encoding in (Encoding.DER, Encoding.PEM):
        with pytest.raises(FormatError):
            load_key(private.private_bytes(encoding, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
