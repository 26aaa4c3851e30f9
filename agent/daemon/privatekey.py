"""A private key in this process's memory: it signs, and it shows itself to nobody.

Made here, never stored, never sent: no repr, no pickle, no copy has its bytes. Signatures have the one fixed form of
agent.core.algorithm; a key says nothing about what it may sign, which is its keeper's business (agent.daemon.named).
"""

from __future__ import annotations

import hashlib
from typing import Never

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core.algorithm import P256, P384, SECP256K1, Algorithm
from agent.core.errors import FormatError, UsageError

_CURVES: dict[str, tuple[ec.EllipticCurve, hashes.SHA256 | hashes.SHA384]] = {
    P256: (ec.SECP256R1(), hashes.SHA256()),
    P384: (ec.SECP384R1(), hashes.SHA384()),
    SECP256K1: (ec.SECP256K1(), hashes.SHA256()),
}


class PrivateKey:
    """A new key of ``algorithm``. ``spki`` is its public half as SubjectPublicKeyInfo."""

    __slots__ = ("_key", "algorithm", "spki")

    def __init__(self, algorithm: Algorithm) -> None:
        self._key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey = (
            ec.generate_private_key(_CURVES[algorithm.name][0]) if algorithm.order else Ed25519PrivateKey.generate()
        )
        self.algorithm = algorithm
        self.spki = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def __repr__(self) -> str:
        return f"<{self.algorithm.name} key {hashlib.sha256(self.spki).hexdigest()[:16]}>"

    def __reduce__(self) -> Never:
        raise TypeError("a private key stays where it is")

    def sign(self, data: bytes) -> bytes:
        """The signature over ``data``, fixed size. ECDSA hashes it with the algorithm's own hash first."""
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(data)
        return self._fixed(self._key.sign(data, ec.ECDSA(_CURVES[self.algorithm.name][1])))

    def sign_digest(self, digest: bytes) -> bytes:
        """The signature over data with this digest of the algorithm's own hash. Raises UsageError, FormatError."""
        if isinstance(self._key, Ed25519PrivateKey):
            raise UsageError(f"{self.algorithm.name} signs data, never a digest of it", hint="send the payload itself")
        if len(digest) != self.algorithm.digest_size:
            raise FormatError(f"digest: {self.algorithm.name} signs {self.algorithm.hash} digests", record="payload")
        return self._fixed(self._key.sign(digest, ec.ECDSA(utils.Prehashed(_CURVES[self.algorithm.name][1]))))

    def _fixed(self, der: bytes) -> bytes:
        return self.algorithm.canonical(self.algorithm.from_der(der))
