"""Intel's certificates and CRLs, judged strictly: which bytes are accepted, and who may sign what.

ECDSA P-256 with SHA-256 is the only algorithm. A frame that the signature does not cover (outer DER, outer
algorithm) has exactly one accepted form, so that no bit of it can change unnoticed. Extensions are looked at only
after the signature held. Sources: RFC 5280; Intel SGX PCK Certificate and CRL Profile Specification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from agent.core.errors import ChainInvalid, FormatError, OutOfValidity, Revoked, SignatureInvalid
from tdx import der as asn1

MAX_CERTIFICATE = 1 << 14
MAX_CRL = 1 << 22
"""Bytes. A PCK CRL of Intel's has a few KiB; four MiB would be some 100,000 revoked platforms."""
ALGORITHM = ec.ECDSA(hashes.SHA256())
_CERTIFICATE = [0xA0, asn1.INTEGER, *[asn1.SEQUENCE] * 5, 0xA3]
_P256 = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d03010703420004")
"""SubjectPublicKeyInfo's content for a P-256 key up to its uncompressed point (RFC 5480)."""
_KEY_USAGE, _BASIC_CONSTRAINTS = bytes.fromhex("551d0f"), bytes.fromhex("551d13")
_DIGITAL_SIGNATURE, _CERT_AND_CRL_SIGN = 0x80, 0x06
_CRL_EXTENSIONS = 0xA0
_TIME = "%Y-%m-%dT%H:%M:%SZ"
Extensions = Mapping[bytes, tuple[bool, bytes]]


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


def _require_known(extensions: Extensions, known: set[bytes], what: object) -> None:
    unknown = [asn1.dotted(oid) for oid, (critical, _) in extensions.items() if critical and oid not in known]
    if unknown:
        raise ChainInvalid(f"{what} has critical extensions that are not understood: {', '.join(unknown)}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate in strict form. Equality is that of the exact bytes; names are DER content."""

    der: bytes
    serial: int = field(compare=False)
    issuer: bytes = field(compare=False, repr=False)
    subject: bytes = field(compare=False, repr=False)
    not_before: datetime = field(compare=False)
    not_after: datetime = field(compare=False)
    key: ec.EllipticCurvePublicKey = field(compare=False, repr=False)
    spki_sha256: bytes = field(compare=False, repr=False)
    frame: asn1.Signed = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f'"{self.name}"'

    @property
    def name(self) -> str:
        """The subject's common name."""
        return asn1.common_name(self.subject)

    @property
    def issuer_name(self) -> str:
        return asn1.common_name(self.issuer)

    def require_issued_by(self, issuer: Certificate) -> None:
        """Names chain and the signature holds. Raises ChainInvalid."""
        if self.issuer != issuer.subject:
            raise ChainInvalid(f"{self} was not issued by {issuer}")
        _require_issuer_signature(self.frame, issuer, self)

    def extensions(self) -> Extensions:
        """OID content to (critical, value). To be asked for when the signature held. Raises ChainInvalid."""
        with _AsChainInvalid(self):
            return asn1.extensions(self.frame.parts[7][1])

    def require_role(self, *, authority: bool) -> Extensions:
        """The extensions, if they are those of the role and nothing else is critical. Raises ChainInvalid."""
        extensions = self.extensions()
        _require_known(extensions, {_KEY_USAGE, _BASIC_CONSTRAINTS}, self)
        critical, constraints = extensions.get(_BASIC_CONSTRAINTS, (False, b""))
        with _AsChainInvalid(self):
            is_authority = asn1.children(asn1.only(constraints, asn1.SEQUENCE))[:1] == [(asn1.BOOLEAN, b"\xff")]
            usage = asn1.only(extensions.get(_KEY_USAGE, (False, b""))[1], asn1.BIT_STRING)[1:2]
        needed = _CERT_AND_CRL_SIGN if authority else _DIGITAL_SIGNATURE
        if not critical or is_authority is not authority or int.from_bytes(usage, "big") & needed != needed:
            raise ChainInvalid(f"{self} is not {'an authority' if authority else 'an end entity'}")
        return extensions

    def require_valid(self, at: datetime) -> None:
        """Raises OutOfValidity."""
        if not self.not_before <= at <= self.not_after:
            require_within(self.not_before, self.not_after, at, f"certificate {self}")


def load_certificate(der: bytes, what: str) -> Certificate:
    """Form only: nothing is believed yet. Raises ChainInvalid."""
    if len(der) > MAX_CERTIFICATE:
        raise ChainInvalid(f"{what} has {len(der)} bytes, {MAX_CERTIFICATE} are allowed")
    with _AsChainInvalid(what):
        frame = asn1.signed(der)
        parts = frame.parts
        if [tag for tag, _ in parts] != _CERTIFICATE or parts[0] != asn1.VERSION_3:
            raise ChainInvalid(f"{what} is not an X.509 version 3 certificate with extensions")
        if parts[2][1] != asn1.ECDSA_SHA256:
            raise ChainInvalid(f"{what} is not signed with ECDSA and SHA-256")
        serial = asn1.integer(parts[1][1])
        times = [asn1.moment(*part) for part in asn1.children(parts[4][1])]
        if len(times) != 2:
            raise ChainInvalid(f"{what}: its validity is not two times")
        key, pin = _public_key(parts[6][1], what)
    return Certificate(der, serial, parts[3][1], parts[5][1], times[0], times[1], key, pin, frame)


def _public_key(spki: bytes, what: str) -> tuple[ec.EllipticCurvePublicKey, bytes]:
    """The key in a SubjectPublicKeyInfo's content, and the SHA-256 of the whole."""
    if not spki.startswith(_P256) or len(spki) != len(_P256) + 64:
        raise ChainInvalid(f"{what}: its key is not a P-256 key")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), spki[len(_P256) - 1 :])
    except ValueError as error:
        raise ChainInvalid(f"{what}: its key is not a point of P-256") from error
    return key, hashlib.sha256(bytes([asn1.SEQUENCE, len(spki)]) + spki).digest()


def _require_issuer_signature(frame: asn1.Signed, issuer: Certificate, what: object) -> None:
    try:
        issuer.key.verify(frame.signature, frame.data, ALGORITHM)
    except InvalidSignature as error:
        raise ChainInvalid(f"signature of {issuer} on {what} does not verify") from error


@dataclass(frozen=True, slots=True)
class Crl:
    """A CRL of ``issuer``, signature verified. Equality is that of the exact bytes."""

    der: bytes
    issuer: Certificate
    this_update: datetime = field(compare=False)
    next_update: datetime = field(compare=False)
    revoked: bytes = field(compare=False, repr=False)
    """Content of revokedCertificates."""

    def require_current(self, at: datetime) -> None:
        """Raises OutOfValidity."""
        require_within(self.this_update, self.next_update, at, f"CRL of {self.issuer}")

    def require_not_revoked(self, certificate: Certificate) -> None:
        """Raises Revoked, ChainInvalid."""
        serial = certificate.frame.parts[1][1]
        if serial not in self.revoked:  # an INTEGER has one encoding in DER: what is not there as bytes is not listed
            return
        with _AsChainInvalid("CRL"):
            listed = any(
                asn1.children(entry)[:1] == [(asn1.INTEGER, serial)] for _, entry in asn1.children(self.revoked)
            )
        if listed:
            raise Revoked(f"{certificate} with serial 0x{certificate.serial:x} is revoked by {self.issuer}")


def frame_crl(der: bytes) -> asn1.Signed:
    """A CRL's frame: ``parts[2]`` is its issuer's Name. Form only. Raises ChainInvalid."""
    if len(der) > MAX_CRL:
        raise ChainInvalid(f"CRL has {len(der)} bytes, {MAX_CRL} are allowed")
    with _AsChainInvalid("CRL"):
        frame = asn1.signed(der)
    parts = frame.parts
    if len(parts) < 3 or parts[0] != (asn1.INTEGER, b"\x01") or parts[1] != (asn1.SEQUENCE, asn1.ECDSA_SHA256):
        raise ChainInvalid("CRL is not an X.509 version 2 CRL under ECDSA with SHA-256")
    return frame


def load_crl(der: bytes, frame: asn1.Signed, issuer: Certificate) -> Crl:
    """A CRL signed by ``issuer`` and complete in scope; ``frame`` is frame_crl(der). Raises ChainInvalid."""
    _require_issuer_signature(frame, issuer, "a CRL")
    rest = frame.parts[3:]
    revoked = rest.pop(2)[1] if [tag for tag, _ in rest[2:3]] == [asn1.SEQUENCE] else b""
    with _AsChainInvalid("CRL"):
        if len(rest) != 3 or rest[2][0] != _CRL_EXTENSIONS:
            raise ChainInvalid(f"CRL of {issuer} does not have this and the next update, and extensions")
        start, end = asn1.moment(*rest[0]), asn1.moment(*rest[1])
        _require_known(asn1.extensions(rest[2][1]), set(), "CRL")
    return Crl(der, issuer, start, end, revoked)
