"""The signature algorithms of attested keys: one form each for public keys and signatures, and no other taken.

A public key is a SubjectPublicKeyInfo whose every byte before the key itself is fixed (RFC 8410, RFC 5480: named
curve, uncompressed point). A signature has a fixed size: Ed25519's 64 bytes, or r || s, big-endian, each as long as
the curve's order (as in RFC 7518 section 3.4 and RFC 9053 section 2.1). Of the two values of s that verify, only the
lower is made and taken, so nobody can turn one of our signatures into another. DER is for raw signatures (openssl).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agent.core import der
from agent.core.errors import FormatError

ED25519, P256, P384, SECP256K1 = "Ed25519", "ECDSA-P256", "ECDSA-P384", "ECDSA-secp256k1"

_N256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SP 800-186, section 3.2.1.3
_N384 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973  # 3.2.1.4
_N256K1 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141  # SEC 2, section 2.4.1


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One algorithm. Sizes in bytes; ``hash`` is "" where the algorithm hashes by itself; ``order`` 0 for Ed25519.

    ``jose`` and ``cose`` are its names in the registries of IANA (JSON Web Signature, COSE algorithms).
    """

    name: str
    spki_prefix: bytes
    key_size: int
    signature_size: int
    hash: str
    order: int
    jose: str
    cose: int

    @property
    def spki_size(self) -> int:
        return len(self.spki_prefix) + self.key_size

    @property
    def digest_size(self) -> int:
        """Of ``hash``; 0 where there is none."""
        return int(self.hash.removeprefix("sha-") or 0) // 8

    @property
    def secret_size(self) -> int:
        """Of the private half: Ed25519's seed, or the scalar as a number of the order's size."""
        return self.key_size // 2 if self.order else self.key_size

    def require_spki(self, spki: bytes) -> None:
        """Raises FormatError unless ``spki`` has this algorithm's one form. Whether it is a point is not looked at."""
        if len(spki) != self.spki_size or not spki.startswith(self.spki_prefix):
            raise FormatError(f"key: not the SubjectPublicKeyInfo of an {self.name} key", record="key")

    def is_canonical(self, signature: bytes) -> bool:
        """Whether ``signature`` has the size and, for ECDSA, 0 < r < n and 0 < s <= n / 2."""
        if len(signature) != self.signature_size:
            return False
        if not self.order:
            return True
        r, s = self._halves(signature)
        return 0 < r < self.order and 0 < s <= self.order // 2

    def canonical(self, signature: bytes) -> bytes:
        """``signature`` with the lower of its two s; Ed25519's as it is. Takes the fixed size."""
        r, s = self._halves(signature)
        return self._join(r, self.order - s) if self.order and s > self.order // 2 else signature

    def to_der(self, signature: bytes) -> bytes:
        """ECDSA: r || s as SEQUENCE of two INTEGERs (RFC 3279); Ed25519: as it is, for it has no DER form."""
        if not self.order:
            return signature
        body = b"".join(_integer(half) for half in self._halves(signature))
        return b"\x30" + bytes([len(body)]) + body

    def from_der(self, data: bytes) -> bytes:
        """The way back, with whatever s. Raises FormatError for another encoding than DER's."""
        if not self.order:
            return data
        reader = der.Reader(data, "signature")
        inside = reader.inside(der.SEQUENCE)
        r, s = inside.integer(), inside.integer()
        inside.finish()
        reader.finish()
        if max(r, s) >= self.order:
            raise FormatError("signature: a value is as large as the curve's order", record="signature")
        return self._join(r, s)

    def _halves(self, signature: bytes) -> tuple[int, int]:
        half = self.signature_size // 2
        return int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")

    def _join(self, r: int, s: int) -> bytes:
        half = self.signature_size // 2
        return r.to_bytes(half, "big") + s.to_bytes(half, "big")


def _integer(value: int) -> bytes:
    # One bit more than the value has: DER's integers are signed. 48 bytes and a zero at the most: a one-byte length.
    data = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + bytes([len(data)]) + data


_POINT = {
    P256: bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
    P384: bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"),
    SECP256K1: bytes.fromhex("3056301006072a8648ce3d020106052b8104000a03420004"),
}
_ALL = (
    Algorithm(ED25519, bytes.fromhex("302a300506032b6570032100"), 32, 64, "", 0, "EdDSA", -8),
    Algorithm(P256, _POINT[P256], 64, 64, "sha-256", _N256, "ES256", -7),
    Algorithm(P384, _POINT[P384], 96, 96, "sha-384", _N384, "ES384", -35),
    Algorithm(SECP256K1, _POINT[SECP256K1], 64, 64, "sha-256", _N256K1, "ES256K", -47),
)
ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType({one.name: one for one in _ALL})
"""All there are, by the name that statements and bundles use."""
SPKI_SIZES = (min(one.spki_size for one in _ALL), max(one.spki_size for one in _ALL))
"""Bytes of the shortest and the longest SubjectPublicKeyInfo."""


def of_spki(spki: bytes) -> Algorithm:
    """The algorithm whose form ``spki`` has: no two share one. Raises FormatError."""
    for one in _ALL:
        if len(spki) == one.spki_size and spki.startswith(one.spki_prefix):
            return one
    raise FormatError(f"key: not a SubjectPublicKeyInfo of {', '.join(ALGORITHMS)}", record="key")


def find(name: str) -> Algorithm:
    """The algorithm of this name. Raises FormatError."""
    if name not in ALGORITHMS:
        raise FormatError(f"key: algorithm is not one of {', '.join(ALGORITHMS)}", record="key")
    return ALGORITHMS[name]
