"""Intel's certificates and CRLs, judged strictly: which bytes are accepted, and who may sign what.

ECDSA P-256 with SHA-256 is the only algorithm. A frame that the signature does not cover (outer DER, outer
algorithm) has exactly one accepted form, so that no bit of it can change unnoticed. Extensions are looked at only
after the signature held. Sources: RFC 5280; Intel SGX PCK Certificate and CRL Profile Specification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from agent.core.errors import ChainInvalid, FormatError, OutOfValidity, Revoked, SignatureInvalid
from tdx import der as asn1

MAX_CERTIFICATE = 1 << 14
MAX_CRL = 1 << 22
"""Bytes. A PCK CRL of Intel's has a few KiB; four MiB would be some 100,000 revoked platforms."""
ALGORITHM = ec.ECDSA(hashes.SHA256())
_CERTIFICATE = [0xA0, asn1.INTEGER, *[asn1.SEQUENCE] * 5, 0xA3]
_KNOWN_CRITICAL = {x509.KeyUsage.oid, x509.BasicConstraints.oid}
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class _Extension(Protocol):
    @property
    def critical(self) -> bool: ...
    @property
    def oid(self) -> x509.ObjectIdentifier: ...


@contextmanager
def _as_chain_invalid(what: object) -> Iterator[None]:
    """The one table from what the parsers raise to ChainInvalid. ``what`` is put into words only when it has to be."""
    try:
        yield
    except (FormatError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ChainInvalid(f"{what} is malformed: {error}") from error
    except (x509.InvalidVersion, x509.DuplicateExtension, x509.ExtensionNotFound) as error:
        raise ChainInvalid(f"{what} is malformed: {error}") from error


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


def _require_known(extensions: Iterator[_Extension], known: set[x509.ObjectIdentifier], what: object) -> None:
    unknown = [e.oid.dotted_string for e in extensions if e.critical and e.oid not in known]
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
    frame: asn1.Signed = field(compare=False, repr=False)
    x509: x509.Certificate = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f'"{self.name}"'

    @property
    def name(self) -> str:
        """The subject's common name."""
        return asn1.common_name(self.subject)

    @property
    def issuer_name(self) -> str:
        return asn1.common_name(self.issuer)

    @property
    def spki_sha256(self) -> bytes:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return hashlib.sha256(self.key.public_bytes(serialization.Encoding.DER, form)).digest()

    def require_issued_by(self, issuer: Certificate) -> None:
        """Names chain and the signature holds. Raises ChainInvalid."""
        if self.issuer != issuer.subject:
            raise ChainInvalid(f"{self} was not issued by {issuer}")
        _require_issuer_signature(self.frame, issuer, self)

    def require_role(self, *, authority: bool) -> None:
        """Basic constraints and key usage as the role needs, nothing critical beside. Raises ChainInvalid."""
        with _as_chain_invalid(self):
            extensions = self.x509.extensions
            basic = extensions.get_extension_for_class(x509.BasicConstraints)
            usage = extensions.get_extension_for_class(x509.KeyUsage).value
        _require_known(iter(extensions), _KNOWN_CRITICAL, self)
        may = usage.key_cert_sign and usage.crl_sign if authority else usage.digital_signature
        if not basic.critical or basic.value.ca is not authority or not may:
            raise ChainInvalid(f"{self} is not {'an authority' if authority else 'an end entity'}")

    def extension(self, oid: str) -> bytes:
        """The value of an extension that the X.509 library does not know. Raises ChainInvalid."""
        with _as_chain_invalid(self):
            value = self.x509.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
        if not isinstance(value, x509.UnrecognizedExtension):
            raise ChainInvalid(f"{self}: extension {oid} is of an unexpected kind")
        return value.value

    def require_valid(self, at: datetime) -> None:
        """Raises OutOfValidity."""
        if not self.not_before <= at <= self.not_after:
            require_within(self.not_before, self.not_after, at, f"certificate {self}")


def load_certificate(der: bytes, what: str) -> Certificate:
    """Form only: nothing is believed yet. Raises ChainInvalid."""
    if len(der) > MAX_CERTIFICATE:
        raise ChainInvalid(f"{what} has {len(der)} bytes, {MAX_CERTIFICATE} are allowed")
    with _as_chain_invalid(what):
        frame = asn1.signed(der)
        parts = frame.parts
        if [tag for tag, _ in parts] != _CERTIFICATE or parts[0] != asn1.VERSION_3:
            raise ChainInvalid(f"{what} is not an X.509 version 3 certificate with extensions")
        if parts[2][1] != asn1.ECDSA_SHA256:
            raise ChainInvalid(f"{what} is not signed with ECDSA and SHA-256")
        serial = asn1.integer(parts[1][1])
        loaded = x509.load_der_x509_certificate(der)
        start, end, key = loaded.not_valid_before_utc, loaded.not_valid_after_utc, loaded.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ChainInvalid(f"{what}: its key is not a P-256 key")
    return Certificate(der, serial, parts[3][1], parts[5][1], start, end, key, frame, loaded)


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
    x509: x509.CertificateRevocationList = field(compare=False, repr=False)

    def require_current(self, at: datetime) -> None:
        """Raises OutOfValidity."""
        require_within(self.this_update, self.next_update, at, f"CRL of {self.issuer}")

    def require_not_revoked(self, certificate: Certificate) -> None:
        """Raises Revoked."""
        with _as_chain_invalid("CRL"):
            entry = self.x509.get_revoked_certificate_by_serial_number(certificate.serial)
        if entry is not None:
            raise Revoked(f"{certificate} with serial 0x{certificate.serial:x} is revoked by {self.issuer}")


def frame_crl(der: bytes) -> asn1.Signed:
    """A CRL's frame: ``parts[2]`` is its issuer's Name. Form only. Raises ChainInvalid."""
    if len(der) > MAX_CRL:
        raise ChainInvalid(f"CRL has {len(der)} bytes, {MAX_CRL} are allowed")
    with _as_chain_invalid("CRL"):
        frame = asn1.signed(der)
    parts = frame.parts
    if len(parts) < 5 or parts[0] != (asn1.INTEGER, b"\x01") or parts[1][1] != asn1.ECDSA_SHA256:
        raise ChainInvalid("CRL is not an X.509 version 2 CRL under ECDSA with SHA-256")
    return frame


def load_crl(der: bytes, frame: asn1.Signed, issuer: Certificate) -> Crl:
    """A CRL signed by ``issuer`` and complete in scope; ``frame`` is frame_crl(der). Raises ChainInvalid."""
    _require_issuer_signature(frame, issuer, "a CRL")
    with _as_chain_invalid("CRL"):
        loaded = x509.load_der_x509_crl(der)
        start, end = loaded.last_update_utc, loaded.next_update_utc
        _require_known(iter(loaded.extensions), set(), "CRL")
    if end is None:
        raise ChainInvalid(f"CRL of {issuer} does not say when the next one comes")
    return Crl(der, issuer, start, end, loaded)
