"""HTTPS on http.client and ssl: small enough for early boot, strict enough for a hostile network.

One connection per request, closed afterwards. The peer is judged before a byte of ours is sent, the API key
included. No redirects, no proxies, no cookies, no environment. Every read is bounded by bytes and by one instant, so
an answer that drips is cut off like one that never comes. Plain http goes to a loopback address only.

With ``spki`` pins the server's own key decides and nothing else: dates, names and chains don't matter (the handshake
still proves that the server has the key). With ``ca`` pins the chain must end in a pinned authority of ``ca_file``,
the name must match, and every certificate must be valid at the time given. Both kinds at once: a server that no
``spki`` pin knows is met again with the authorities' rules.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import operator
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent.core.canonical import printable
from agent.core.config import Pin
from agent.core.errors import TlsError, TooLarge, TransportError
from agent.core.ports import Deadline
from agent.deadline import within
from agent.transport.pins import check_times, leaf_is_pinned, pinned_authorities

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_HEAD = 16 * 1024
"""Bytes of status line, headers and chunk framing at the most."""

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: we check it, for we say what time it is
_DER = 2  # _ssl.ENCODING_DER


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to call and whom to believe. ``now`` gives the time that certificates are judged at (aware UTC)."""

    url: str
    pins: tuple[Pin, ...]
    now: Callable[[], datetime]
    authorities: bytes = field(default=b"", repr=False)
    connect_seconds: float = 10.0


class StdlibTransport:
    """A Transport (agent.core.ports) to one peer."""

    def __init__(self, peer: Peer) -> None:
        parts = urlsplit(peer.url)
        self._peer = peer
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._netloc = parts.netloc
        self._kinds = [kind for kind in ("spki", "ca") if any(pin.kind == kind for pin in peer.pins)]
        if self._tls and not self._kinds:
            raise TlsError("https without a pin: nobody could be believed", code="transport.tls.pin")
        self._contexts = {kind: self._context(kind) for kind in self._kinds}

    def request(
        self, method: str, path: str, *, headers: dict[str, str], body: bytes, max_bytes: int, deadline: Deadline
    ) -> Answer:
        """Send one request, return the whole answer (body of ``max_bytes`` at the most, whatever its status).

        Raises TransportError, TlsError, TooLarge, DeadlineExceeded.
        """
        with _typed(self._netloc, deadline), self._connected(deadline) as connection:
            bounded = _BoundedSocket(connection, deadline, max_bytes + MAX_HEAD)
            client = http.client.HTTPConnection(self._host, self._port)
            client.sock = bounded
            client.auto_open = 0
            sent = {"Host": self._netloc, "Connection": "close", "Accept-Encoding": "identity", **headers}
            client.request(method, self._prefix + path, body=body or None, headers=sent)
            return _answer(client.getresponse(), max_bytes)

    @contextmanager
    def _connected(self, deadline: Deadline) -> Iterator[socket.socket]:
        connection = self._believed(deadline) if self._tls else self._dial(deadline)
        try:
            yield connection
        finally:
            connection.close()

    def _believed(self, deadline: Deadline) -> ssl.SSLSocket:
        for kind in self._kinds:
            connection = self._handshake(self._contexts[kind], self._dial(deadline), deadline)
            try:
                if self._judged(kind, connection):
                    return connection
            except BaseException:
                connection.close()
                raise
            connection.close()
        raise TlsError(
            f"{self._netloc}: the server's key is none of the pinned ones",
            hint="if the service's key was changed on purpose, pin the new one; else somebody stands in between",
            code="transport.tls.pin",
        )

    def _judged(self, kind: str, connection: ssl.SSLSocket) -> bool:
        if kind == "spki":
            return leaf_is_pinned(connection.getpeercert(binary_form=True), self._peer.pins)
        check_times(_verified_chain(connection), self._peer.now())
        return True

    def _handshake(self, context: ssl.SSLContext, plain: socket.socket, deadline: Deadline) -> ssl.SSLSocket:
        try:
            plain.settimeout(min(self._peer.connect_seconds, deadline.remaining()))
            return context.wrap_socket(plain, server_hostname=self._host)
        except BaseException:
            plain.close()
            raise

    def _dial(self, deadline: Deadline) -> socket.socket:
        """A TCP connection to the first address that answers."""
        failure: OSError | None = None
        for family, address in self._addresses(deadline):
            plain = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                plain.settimeout(min(self._peer.connect_seconds, deadline.remaining()))
                plain.connect(address)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                plain.close()
                failure = error
            except BaseException:
                plain.close()
                raise
            else:
                return plain
        raise failure or TransportError(f"{self._host} has no address")

    def _addresses(self, deadline: Deadline) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
        """The resolver knows no deadline of its own, so it is asked from a thread."""

        def resolve() -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            return [(family, (str(address[0]), self._port)) for family, _, _, _, address in found]

        found = within(deadline, f"resolving {self._host}", resolve)
        if not self._tls and not all(ipaddress.ip_address(host).is_loopback for _, (host, _) in found):
            raise TlsError(
                f"{self._host} is another machine: plain http is not spoken to it", code="transport.tls.plain"
            )
        return found

    def _context(self, kind: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if kind == "spki":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # the key itself is compared before anything is sent
            return context
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
        context.load_verify_locations(cadata=b"".join(pinned_authorities(self._peer.authorities, self._peer.pins)))
        return context


def _verified_chain(connection: ssl.SSLSocket) -> list[bytes]:
    """DER of the chain that OpenSSL accepted. Public from Python 3.13 on; before, one level below."""
    public = getattr(connection, "get_verified_chain", None)
    if public is not None:
        return list(public())
    inner = operator.attrgetter("_sslobj.get_verified_chain")(connection)
    return [certificate.public_bytes(_DER) for certificate in inner()]


def _answer(response: http.client.HTTPResponse, max_bytes: int) -> Answer:
    with response:
        body = response.read(max_bytes + 1)
        if len(body) > max_bytes:
            raise TooLarge(f"the answer has more than {max_bytes} bytes")
        headers = {name.lower(): value for name, value in response.getheaders()}
        length = headers.get("content-length", "an unknown number of")
        if "transfer-encoding" not in headers and length != str(len(body)):
            raise TransportError(
                f"the answer ended after {len(body)} of {printable(length[:20])} bytes", code="transport.cut"
            )
    return Answer(response.status, headers, body)


class _BoundedSocket:
    """What http.client sees of a socket: every operation ends by the deadline, and all reads by the byte limit."""

    def __init__(self, connection: socket.socket, deadline: Deadline, max_bytes: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._max = max_bytes

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._connection.settimeout(self._deadline.remaining())
            rest = rest[self._connection.send(rest) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedReader(self._connection, self._deadline, self._max))

    def close(self) -> None:
        """The transport closes the connection, once the answer is read."""


class _BoundedReader(io.RawIOBase):
    def __init__(self, connection: socket.socket, deadline: Deadline, max_bytes: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._left = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._connection.settimeout(self._deadline.remaining())
        got = self._connection.recv_into(buffer)
        self._left -= got
        if self._left < 0:
            raise TooLarge("the answer is larger than allowed")
        return got


@contextmanager
def _typed(peer: str, deadline: Deadline) -> Iterator[None]:
    """The one table from foreign exceptions to ours."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise TlsError(f"{peer}: {error.verify_message}", code="transport.tls.chain") from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise TransportError(f"{peer}: the connection was cut", code="transport.cut") from error
    except ssl.SSLError as error:
        raise TlsError(f"{peer}: TLS failed: {error.reason or error}") from error
    except TimeoutError as error:
        deadline.remaining()  # says so if it was the whole deadline that ended
        raise TransportError(f"{peer}: no answer in time", code="transport.timeout") from error
    except (socket.gaierror, UnicodeError) as error:
        raise TransportError(f"{peer}: the name could not be resolved: {error}", code="transport.name") from error
    except OSError as error:
        raise TransportError(f"{peer}: {error.strerror or error}") from error
    except http.client.HTTPException as error:
        raise TransportError(f"{peer}: no proper HTTP answer: {type(error).__name__}", code="transport.http") from error
