"""Intel's certificates and CRLs, judged: P-256 keys, who may sign what, what is in date and not revoked.

ECDSA P-256 with SHA-256 is the only algorithm. Form is agent.core.x509's business; roles are looked at only after the
signature held. Sources: RFC 5280; Intel SGX PCK Certificate and CRL Profile Specification.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from agent.core import x509
from agent.core.errors import ChainInvalid, FormatError, OutOfValidity, Revoked, SignatureInvalid
from agent.core.x509 import BASIC_CONSTRAINTS, CERT_SIGN, CRL_SIGN, DIGITAL_SIGNATURE

ALGORITHM = ec.ECDSA(hashes.SHA256())
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
"""AlgorithmIdentifier for ECDSA with SHA-256, without parameters (RFC 5758 section 3.2)."""
PROFILE = x509.Profile("ECDSA and SHA-256", frozenset({ECDSA_SHA256}), max_crl=1 << 22)
"""A PCK CRL of Intel's has a few KiB; four MiB would be some 100,000 revoked platforms."""
_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""SubjectPublicKeyInfo of a P-256 key up to its uncompressed point (RFC 5480)."""
_RSA_ARC = bytes.fromhex("2a864886f70d0101")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class _AsChainInvalid:
    """Turns a form error in its block into ChainInvalid. ``what`` is put into words only when it has to be."""

    __slots__ = ("what",)

    def __init__(self, what: object) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, FormatError):
            raise ChainInvalid(f"{self.what} is malformed: {error}") from error


def point(raw: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key x || y (64 bytes). Raises SignatureInvalid when it is no point of the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw)
    except ValueError as error:
        raise SignatureInvalid("attestation key is not a point of P-256") from error


def require_signature(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes, what: str) -> None:
    """ECDSA P-256 with SHA-256, ``signature`` is r || s (64 bytes). Raises SignatureInvalid."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(utils.encode_dss_signature(r, s), data, ALGORITHM)
    except InvalidSignature as error:
        raise SignatureInvalid(f"{what} signature does not verify") from error


def require_within(start: datetime, end: datetime, at: datetime, what: str) -> None:
    """Both ends belong to the period. Raises OutOfValidity."""
    if not start <= at <= end:
        raise OutOfValidity(
            f"{what} is not valid at {at:{_TIME}}: only from {start:{_TIME}} to {end:{_TIME}}",
            hint="renew the endorsements, or check the clock",
        )


@dataclass(frozen=True, slots=True)
class Certificate(x509.Certificate):
    """A certificate of a P-256 key."""

    key: ec.EllipticCurvePublicKey = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", _public_key(self.spki))

    def __str__(self) -> str:
        return f'"{self.common_name}"'

    def require_issued_by(self, issuer: Certificate) -> None:
        """Names chain and the signature holds. Raises ChainInvalid."""
        if self.issuer != issuer.subject:
            raise ChainInvalid(f"{self} was not issued by {issuer}")
        _require_issuer_signature(self, issuer, self)

    def require_role(self, *, authority: bool) -> None:
        """Basic constraints (critical) and key usage are those of the role. Raises ChainInvalid."""
        constraints = self.extensions.get(BASIC_CONSTRAINTS)
        with _AsChainInvalid(self):
            is_authority, usage = self.authority(), self.key_usage() or 0
        needed = CERT_SIGN | CRL_SIGN if authority else DIGITAL_SIGNATURE
        sound = constraints is not None and constraints.critical
        if not sound or is_authority is not authority or usage & needed != needed:
            raise ChainInvalid(f"{self} is not {'an authority' if authority else 'an end entity'}")

    def require_valid(self, at: datetime) -> None:
        """Raises OutOfValidity."""
        if not self.not_before <= at <= self.not_after:
            require_within(self.not_before, self.not_after, at, f"certificate {self}")


@dataclass(frozen=True, slots=True)
class Crl(x509.Crl):
    """A CRL, to be believed after ``require_issued_by``."""

    def require_issued_by(self, issuer: Certificate) -> None:
        """The signature holds. Raises ChainInvalid."""
        _require_issuer_signature(self, issuer, "a CRL")

    def require_current(self, at: datetime) -> None:
        """Raises OutOfValidity."""
        require_within(self.this_update, self.next_update, at, f"CRL of {self._issuer_name()}")

    def require_not_revoked(self, certificate: Certificate) -> None:
        """Raises Revoked, ChainInvalid."""
        with _AsChainInvalid("CRL"):
            when = self.revoked_at(certificate.serial)
        if when:
            number = f"serial 0x{certificate.serial:x}"
            raise Revoked(f"{certificate} with {number} is revoked by {self._issuer_name()}")

    def _issuer_name(self) -> str:
        return f'"{x509.common_name(self.issuer)}"'


def load_certificate(der: bytes, what: str) -> Certificate:
    """Form only: nothing is believed yet. Raises ChainInvalid."""
    with _AsChainInvalid(what):
        return Certificate.parse(der, PROFILE)


def load_crl(der: bytes) -> Crl:
    """Form only: nothing is believed yet. Raises ChainInvalid."""
    with _AsChainInvalid("CRL"):
        return Crl.parse(der, PROFILE)


def is_rsa_signed(der: bytes) -> bool:
    """Whether this is a CRL under an RSA algorithm, inside and outside: another vendor's, not ours to judge."""
    return x509.signed_under(der, _RSA_ARC)


def _public_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    """Raises FormatError."""
    if not spki.startswith(_P256) or len(spki) != len(_P256) + 64:
        raise FormatError("its key is not a P-256 key", record="certificate")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), spki[len(_P256) - 1 :])
    except ValueError as error:
        raise FormatError("its key is not a point of P-256", record="certificate") from error


def _require_issuer_signature(signed: x509.Signed, issuer: Certificate, what: object) -> None:
    try:
        issuer.key.verify(signed.signature, signed.tbs, ALGORITHM)
    except InvalidSignature as error:
        raise ChainInvalid(f"signature of {issuer} on {what} does not verify") from error
