"""The server's TLS: a self-signed P-256 certificate, its SPKI pin, and the context it serves with.

Clients know the service by the pin of its key, not by a certificate authority; so the certificate is long-lived, and
an admin may put another certificate for the same key in its place.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.core.errors import ConfigError

ALWAYS = ("localhost", "127.0.0.1", "::1")
LIFETIME = timedelta(days=3650)


def new_key() -> bytes:
    """A new P-256 private key, PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def self_signed(key_pem: bytes, names: tuple[str, ...]) -> bytes:
    """A certificate, PEM, of a P-256 key for ``names`` and this host. Raises ConfigError."""
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError) as exc:
        raise ConfigError("the TLS key is no unencrypted PEM private key") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("the TLS key is not an EC key", hint="put its certificate beside it as tls-cert.pem")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "TEE attestation service")])
    now = datetime.now(UTC)
    public = key.public_key()
    builder = x509.CertificateBuilder(subject, subject, public, x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + LIFETIME)
    for extension, critical in _extensions(public, names):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def names_missing(certificate: bytes, names: tuple[str, ...]) -> list[str]:
    """Those of ``names`` that the first certificate of a PEM file does not stand for. Raises ConfigError."""
    try:
        extensions = _leaf(certificate).extensions
        held = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (ValueError, x509.ExtensionNotFound):
        held = []
    return [name for name in names if _general_name(name) not in held]


def spki_pin(certificate: bytes) -> str:
    """``spki:sha256:<hex>`` of the first certificate in a PEM file. Raises ConfigError."""
    public = _leaf(certificate).public_key()
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"spki:sha256:{hashlib.sha256(spki).hexdigest()}"


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and newer. Raises ConfigError if certificate and key don't load or don't belong together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0  # a boot comes once: what nobody resumes costs a quarter of the handshake
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"{certificate} and {key} are no usable pair of certificate and key") from exc
    return context


def _leaf(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError as exc:
        raise ConfigError("the TLS certificate is no PEM certificate") from exc


def _extensions(public: ec.EllipticCurvePublicKey, names: tuple[str, ...]) -> list[tuple[x509.ExtensionType, bool]]:
    wanted = dict.fromkeys((*ALWAYS, socket.gethostname(), *names))
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return [
        (x509.SubjectAlternativeName([_general_name(name) for name in wanted]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage, True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
    ]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as exc:
        raise ConfigError(f"{name!r} is neither a DNS name nor an address") from exc
