"""Certificates for TLS tests: EC keys, any validity, any name; with what RFC 5280 demands, as Python 3.13 does."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agent.core.config import Pin

NOW = datetime.now(UTC).replace(microsecond=0)
_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Identity:
    """A key and its certificate; ``issuers`` are those above it, nearest first."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    issuers: tuple[x509.Certificate, ...] = ()

    @property
    def digest(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo."""
        return hashlib.sha256(
            self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).digest()

    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def chain_file(self, path: Path) -> Path:
        """Key, certificate and intermediates, as a server loads them."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(key + self.pem() + b"".join(one.public_bytes(Encoding.PEM) for one in self.issuers))
        return path


def spki_pin(identity: Identity) -> Pin:
    return Pin("spki", identity.digest)


def ca_pin(identity: Identity) -> Pin:
    return Pin("ca", identity.digest)


def make(
    name: str,
    issuer: Identity | None = None,
    *,
    authority: bool = False,
    address: str = "127.0.0.1",
    begins: datetime = NOW - timedelta(days=1),
    ends: datetime = NOW + timedelta(days=30),
) -> Identity:
    """A certificate for ``name`` (an authority, or a server at ``address``), self-signed without ``issuer``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    public = (issuer.key if issuer else key).public_key()
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    if authority:
        builder = builder.add_extension(_AUTHORITY_USAGE, critical=True)
    else:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(issuer.key if issuer else key, SHA256())
    above: tuple[x509.Certificate, ...] = ()
    if issuer and issuer.certificate.issuer != issuer.certificate.subject:  # a root is not sent along
        above = (issuer.certificate, *issuer.issuers)
    return Identity(key, certificate, above)
