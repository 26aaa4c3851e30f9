"""The secret, wrapped for one RSA key: RSA-OAEP-SHA256 of a fresh AES-256-GCM key (TAS-PROTOCOL, section 1)."""

from __future__ import annotations

import base64
import os

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.core.errors import FormatError
from agent.core.model import Secret

KEY_BITS = range(2048, 4097)
TAG_SIZE = 16
IV_SIZE = 12


def load_key(data: bytes) -> rsa.RSAPublicKey:
    """An RSA public key of 2048 to 4096 bits as PKCS#1 DER, SubjectPublicKeyInfo DER or PEM. Raises FormatError."""
    load = serialization.load_pem_public_key if data.startswith(b"-----BEGIN ") else serialization.load_der_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise FormatError("the wrapping key is no public key", record="wrapping-key", code="format.key") from exc
    if not isinstance(key, rsa.RSAPublicKey):
        raise FormatError("the wrapping key is not an RSA key", record="wrapping-key", code="format.key")
    if key.key_size not in KEY_BITS:
        raise FormatError(
            f"the wrapping key has {key.key_size} bits, not {KEY_BITS.start} to {KEY_BITS.stop - 1}",
            record="wrapping-key",
            code="format.key",
        )
    if key.public_numbers().n % 2 == 0:  # nothing can be encrypted for it
        raise FormatError("the wrapping key's modulus is even", record="wrapping-key", code="format.key")
    return key


def wrap(secret: Secret, key: rsa.RSAPublicKey) -> dict[str, str]:
    """``secret_key`` of the answer: blob, iv, tag and wrapped_key, all base64."""
    aes, iv = AESGCM.generate_key(256), os.urandom(IV_SIZE)
    sealed = AESGCM(aes).encrypt(iv, secret.reveal(), None)
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    parts = {
        "blob": sealed[:-TAG_SIZE],
        "iv": iv,
        "tag": sealed[-TAG_SIZE:],
        "wrapped_key": key.encrypt(aes, oaep),
    }
    return {name: base64.b64encode(value).decode("ascii") for name, value in parts.items()}
