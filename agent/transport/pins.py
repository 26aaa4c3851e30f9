"""Is this the peer we pinned? Decides on DER certificates only; the sockets are the transport's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core.config import Pin
from agent.core.errors import ConfigError, TlsError

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the cryptography package raises for certificates that it can't read (TypeError: a name that is no text)."""


def spki_sha256(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo DER (RFC 7469 section 2.4, without the base64)."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def leaf_is_pinned(der: bytes | None, pins: Iterable[Pin]) -> bool:
    """Is the peer's own key one of the ``spki`` pins? Raises TlsError for a certificate that can't be read."""
    if not der:
        raise TlsError("the service showed no certificate", code="transport.tls.pin")
    try:
        digest = spki_sha256(x509.load_der_x509_certificate(der))
    except UNREADABLE as error:
        raise TlsError(f"the service's certificate can't be read: {error}", code="transport.tls.pin") from error
    return digest in {pin.sha256 for pin in pins if pin.kind == "spki"}


def pinned_authorities(pem: bytes, pins: Iterable[Pin]) -> list[bytes]:
    """Those certificates of ``pem`` (DER each) whose key is one of the ``ca`` pins. Raises ConfigError for none."""
    wanted = {pin.sha256 for pin in pins if pin.kind == "ca"}
    try:
        found = [one for one in x509.load_pem_x509_certificates(pem) if spki_sha256(one) in wanted]
    except UNREADABLE as error:
        raise ConfigError(f"tas.ca_file: not PEM certificates: {error}") from error
    if not found:
        raise ConfigError("tas.ca_file: no certificate in it has a pinned key", code="config.value")
    return [one.public_bytes(Encoding.DER) for one in found]


def check_times(chain: Sequence[bytes], at: datetime) -> None:
    """Every certificate of a verified chain (DER) is valid at ``at``, else TlsError."""
    for start, end, name in map(_period, chain):
        if not start <= at <= end:
            raise TlsError(
                f"the certificate of {name[:200]!r} is valid from {start:%Y-%m-%d} to {end:%Y-%m-%d}, "
                f"it is {at:%Y-%m-%d} here",
                hint="renew the service's certificate, or set this machine's clock",
                code="transport.tls.validity",
            )


def _period(der: bytes) -> tuple[datetime, datetime, str]:
    """First and last moment, and the subject's name."""
    try:
        found = x509.load_der_x509_certificate(der)
        return found.not_valid_before_utc, found.not_valid_after_utc, found.subject.rfc4514_string()
    except UNREADABLE as error:
        raise TlsError(f"the service's certificate can't be read: {error}", code="transport.tls.pin") from error
