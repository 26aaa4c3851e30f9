"""A private key in this process's memory: it signs, and it shows itself to nobody.

No repr, no pickle, no copy has its bytes. They leave in one way only: ``sealed`` copies those of persistent keys into
one buffer, hands it to a sealer, and wipes it. What the interpreter and OpenSSL copied on the way is out of reach
(DESIGN.md, I6). Signatures have the one fixed form of agent.core.algorithm; a key says nothing about what it may
sign, which is its keeper's business (agent.daemon.named).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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
    """A new key of ``algorithm``, or that of ``secret``. ``spki`` is its public half as SubjectPublicKeyInfo.

    ``secret`` has ``algorithm.secret_size`` bytes: Ed25519's seed (RFC 8032), or the curve's scalar, big-endian. It
    stays the caller's to wipe. Raises FormatError where it is no key.
    """

    __slots__ = ("_key", "algorithm", "spki")

    def __init__(self, algorithm: Algorithm, secret: memoryview | None = None) -> None:
        self._key = _generated(algorithm) if secret is None else _restored(algorithm, secret)
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

    def copy_to(self, place: memoryview) -> None:
        """The secret, in the form that the class takes, for ``sealed`` and nobody else: a test sees to that."""
        if isinstance(self._key, Ed25519PrivateKey):
            place[:] = self._key.private_bytes_raw()
        else:
            place[:] = self._key.private_numbers().private_value.to_bytes(len(place), "big")


def sealed(head: bytes, keys: Sequence[PrivateKey], seal: Callable[[bytearray], bytes]) -> bytes:
    """What ``seal`` makes of ``head`` and the secrets of ``keys`` behind each other. Raises what it raises.

    The buffer has its size from the start, for one that grows leaves copies behind, and is zeros afterwards.
    """
    plain = bytearray(len(head) + sum(key.algorithm.secret_size for key in keys))
    try:
        with memoryview(plain) as view:
            view[: len(head)] = head
            place = len(head)
            for key in keys:
                key.copy_to(view[place : place + key.algorithm.secret_size])
                place += key.algorithm.secret_size
        return seal(plain)
    finally:
        wipe(plain)


def wipe(plain: bytearray) -> None:
    """Zeros, in place."""
    plain[:] = bytes(len(plain))


def _generated(algorithm: Algorithm) -> Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
    if not algorithm.order:
        return Ed25519PrivateKey.generate()
    return ec.generate_private_key(_CURVES[algorithm.name][0])


def _restored(algorithm: Algorithm, secret: memoryview) -> Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
    if len(secret) != algorithm.secret_size:
        raise FormatError(f"key: a secret of {algorithm.name} has {algorithm.secret_size} bytes", record="key")
    if not algorithm.order:
        return Ed25519PrivateKey.from_private_bytes(secret)
    value = int.from_bytes(secret, "big")
    if not 0 < value < algorithm.order:
        raise FormatError("key: a secret is not below the order of its curve", record="key")
    return ec.derive_private_key(value, _CURVES[algorithm.name][0])
