"""Throw-away keys and certificates: made once per state folder, kept there, signed by nobody else's root."""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from agent.core.errors import Conflict

ORGANISATION = "tee-agent simulator"
"""O of every certificate: nobody can mistake it for the vendor's."""
ROOT_LIFETIME = timedelta(days=3652)
COLLATERAL_BEFORE = timedelta(days=1)
COLLATERAL_AFTER = timedelta(days=30)

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Period:
    """Validity, whole seconds, UTC."""

    start: datetime
    end: datetime


def collateral_period(now: datetime) -> Period:
    """From one day ago to in thirty days: CRLs, TCB info, QE identity, leaf certificates."""
    now = now.astimezone(UTC).replace(microsecond=0)
    return Period(now - COLLATERAL_BEFORE, now + COLLATERAL_AFTER)


def root_period(now: datetime) -> Period:
    """Ten years from one day ago: roots and CAs."""
    now = now.astimezone(UTC).replace(microsecond=0)
    return Period(now - COLLATERAL_BEFORE, now + ROOT_LIFETIME)


class State:
    """The simulator's folder (0700): keys and CA certificates as PEM files, shared by every simulator that uses it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time makes keys here."""
        with (self.path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def kept(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The file's content, made first where there is none yet."""
        path = self.path / name
        if path.exists():
            return path.read_bytes()
        content = make()
        write_atomically(path, content, mode=0o600)
        return content

    def ec_key(self, name: str, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
        key = self._key(name, lambda: ec.generate_private_key(curve))
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise self._unexpected(name)
        return key

    def rsa_key(self, name: str) -> rsa.RSAPrivateKey:
        """RSA-4096: takes seconds the first time."""
        key = self._key(name, lambda: rsa.generate_private_key(65537, 4096))
        if not isinstance(key, rsa.RSAPrivateKey):
            raise self._unexpected(name)
        return key

    def certificate(self, name: str, make: Callable[[], x509.Certificate]) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.kept(f"{name}.pem", lambda: pem(make())))

    def _key(self, name: str, make: Callable[[], SigningKey]) -> object:
        text = self.kept(f"{name}.key", lambda: _private_pem(make()))
        # The check of an RSA key takes a quarter of a second, and the file is our own.
        return serialization.load_pem_private_key(text, None, unsafe_skip_rsa_key_validation=True)

    def _unexpected(self, name: str) -> Conflict:
        return Conflict(f"{self.path / name}.key is not the kind of key expected", hint="remove the state folder")


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """A reader sees the old file or the whole new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    fresh.replace(path)


def name(common_name: str, unit: str) -> x509.Name:
    """The subject or issuer ``common_name``, marked as ours."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def usage(*, signs_certificates: bool = False, signs_crls: bool = False, signs_data: bool = False) -> x509.KeyUsage:
    """KeyUsage with these bits (data: digitalSignature and nonRepudiation, as Intel has it)."""
    return x509.KeyUsage(
        digital_signature=signs_data,
        content_commitment=signs_data,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_crls,
        encipher_only=False,
        decipher_only=False,
    )


def distribution_point(path: str) -> x509.CRLDistributionPoints:
    """A CRL address that can't resolve (RFC 2606 ``.invalid``): nothing of ours is ever fetched."""
    address = x509.UniformResourceIdentifier(f"https://tee-agent-simulator.invalid/{path}")
    return x509.CRLDistributionPoints([x509.DistributionPoint([address], None, None, None)])


def authority_key(key: SigningKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def subject_key(key: SigningKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def pem_of(certificate: bytes) -> bytes:
    """PEM of a DER certificate that no parser has to like."""
    text = base64.b64encode(certificate).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n".encode()


def der(certificate: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _private_pem(key: SigningKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
