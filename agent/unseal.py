"""The wrapping key of one request, and what it opens."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from agent.core.errors import SecretError
from agent.core.exchange import Wrapped
from agent.core.model import Secret

KEY_BITS = 3072
_AES_KEY = 32


class WrappingKey:
    """An RSA-3072 key for one request: made here, bound into the evidence, never stored, never printed."""

    def __init__(self, key: rsa.RSAPrivateKey | None = None) -> None:
        self._key = key or rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        self.public_der = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
        """PKCS#1 RSAPublicKey DER, as sent and as bound."""

    @classmethod
    def from_der(cls, der: bytes) -> WrappingKey:
        """The key that another process of ours made (``private_der``): not checked again, for that is slow."""
        key = load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise SecretError("not an RSA key", code="secret.wrapping-key")
        return cls(key)

    def private_der(self) -> bytes:
        """PKCS#8 DER, unencrypted: for a pipe to another process of ours, and nothing else (DESIGN.md, I6)."""
        return self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def unseal(self, wrapped: Wrapped) -> Secret:
        """The secret inside. Raises SecretError: another key's, tampered with, or empty."""
        with self._aes_key(wrapped.wrapped_key) as key:
            plain = _kwp(key, wrapped) if wrapped.algorithm == "AES-KWP" else _gcm(key, wrapped)
        if not plain:
            raise SecretError("the service released an empty secret", code="secret.empty")
        return Secret(plain)

    def _aes_key(self, wrapped_key: bytes) -> Secret:
        try:
            key = self._key.decrypt(wrapped_key, OAEP(mgf=MGF1(SHA256()), algorithm=SHA256(), label=None))
        except ValueError as error:
            raise SecretError("the wrapped key is not for our wrapping key", code="secret.wrapped-key") from error
        if len(key) != _AES_KEY:
            raise SecretError(f"the wrapped key has {len(key)} bytes, not {_AES_KEY}", code="secret.wrapped-key")
        return Secret(key)


def _gcm(key: Secret, wrapped: Wrapped) -> bytes:
    try:
        return AESGCM(key.reveal()).decrypt(wrapped.iv, wrapped.blob + wrapped.tag, None)
    except InvalidTag as error:
        raise SecretError("the released secret was changed on its way", code="secret.tampered") from error


def _kwp(key: Secret, wrapped: Wrapped) -> bytes:
    try:
        return aes_key_unwrap_with_padding(bytes(key.reveal()), wrapped.blob)
    except InvalidUnwrap as error:
        raise SecretError("the released secret was changed on its way", code="secret.tampered") from error
