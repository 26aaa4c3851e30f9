"""What a TLS server shows of itself, read without believing any of it. Nothing is sent but the handshake."""

from __future__ import annotations

import operator
import socket
import ssl
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.core import ports
from agent.core.canonical import printable
from agent.core.config import Pin
from agent.core.errors import TlsError, TransportError
from agent.deadline import within
from agent.transport.pins import UNREADABLE, spki_sha256

MAX_CHAIN = 10
MAX_NAME = 200
_DER = 2  # _ssl.ENCODING_DER


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that the server named as its own: ``pin`` is what its key would be pinned by."""

    subject: str
    pin: Pin
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Shown:
    """The server's certificate and the authorities it sent along; names are safe to print."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    pin: Pin
    authorities: tuple[Authority, ...]

    def offers(self, pin: Pin) -> bool:
        """Whether the server, as shown, is what ``pin`` pins."""
        return pin == self.pin or pin in [authority.pin for authority in self.authorities]


def look(url: str, deadline: ports.Deadline) -> Shown:
    """What the server at ``url`` (https) shows now. Raises TransportError, TlsError, DeadlineExceeded."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    seconds = deadline.remaining()
    try:
        return read(within(deadline, f"looking at {parts.netloc}", lambda: _handshake(host, port, seconds)))
    except ssl.SSLError as error:
        raise TlsError(
            f"{parts.netloc}: no TLS there: {error.reason or error}", hint="is that the service's port?"
        ) from error
    except (socket.gaierror, UnicodeError) as error:
        raise TransportError(f"{parts.netloc}: no such name: {error}", code="transport.name") from error
    except OSError as error:
        hint = "is the service running, and the way to it open?"
        raise TransportError(f"{parts.netloc}: {error.strerror or error}", hint=hint) from error


def read(chain: list[bytes]) -> Shown:
    """``chain`` (DER), the server's own certificate first. Raises TlsError for one that can't be read."""
    try:
        leaf, *others = [x509.load_der_x509_certificate(der) for der in chain[:MAX_CHAIN]]
        return Shown(
            _name(leaf.subject),
            _name(leaf.issuer),
            _alternative_names(leaf),
            leaf.not_valid_before_utc,
            leaf.not_valid_after_utc,
            Pin("spki", spki_sha256(leaf)),
            tuple(
                Authority(_name(one.subject), Pin("ca", spki_sha256(one)), one.public_bytes(Encoding.DER))
                for one in others
                if _is_authority(one)
            ),
        )
    except UNREADABLE as error:
        raise TlsError(f"the server's certificate can't be read: {error}", code="transport.tls.pin") from error


def _handshake(host: str, port: int, seconds: float) -> list[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is believed, nothing is sent
    with (
        socket.create_connection((host, port), seconds) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        return _chain(connection)


def _chain(connection: ssl.SSLSocket) -> list[bytes]:
    """DER of what the server sent. Public from Python 3.13 on; before, one level below."""
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    inner = operator.attrgetter("_sslobj.get_unverified_chain")(connection)
    return [certificate.public_bytes(_DER) for certificate in inner()]


def _name(name: x509.Name) -> str:
    return printable(name.rfc4514_string())[:MAX_NAME]


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    names = found.get_values_for_type(x509.DNSName)
    addresses = map(str, found.get_values_for_type(x509.IPAddress))
    return tuple(printable(name)[:MAX_NAME] for name in (*names, *addresses))
