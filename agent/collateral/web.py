"""GET from a vendor's service: TLS verified, bounded in bytes and seconds, no redirects, nothing from the environment.

What comes back is public data that others sign: nothing rests on the connection but being left alone. So there are
no pins here, and a proxy or a PCCS with a private authority may stand in between. Plain http goes to loopback only.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests

from agent.collateral.gate import Gate
from agent.core.backoff import Backoff
from agent.core.canonical import shown
from agent.core.errors import ProtocolError, ServerError, TlsError, TooLarge, TransportError
from agent.core.ports import Deadline
from agent.deadline import part, within
from agent.retry import persist

ATTEMPTS = 4
PAUSES = Backoff(base=1.0, cap=15.0)
CONNECT_SECONDS, REQUEST_SECONDS = 10.0, 30.0
_CHUNK = 64 * 1024
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer with status 200; header names are lower case."""

    headers: dict[str, str]
    body: bytes = field(repr=False)


class Web:
    """``proxy`` is for https only; ``authorities`` is a PEM file believed instead of the system's."""

    def __init__(
        self, gate: Gate, now: Callable[[], datetime], *, proxy: str = "", authorities: Path | None = None
    ) -> None:
        self._gate = gate
        self._now = now
        self._proxies = {"https": proxy} if proxy else {}
        self._verify: bool | str = str(authorities) if authorities else True

    def get(self, url: str, *, max_bytes: int, deadline: Deadline, spacing: float = 0.0) -> Answer:
        """The answer to one request, tried again while the service says "later" and the deadline allows.

        ``spacing`` seconds must lie between two such requests to this host, whichever process makes them. Raises
        TransportError, TlsError, TooLarge, DeadlineExceeded, ServerError, ProtocolError (``code`` protocol.not-found
        where the service has no such thing, protocol.redirect).
        """
        host = urlsplit(url).netloc

        def once() -> Answer:
            self._gate.wait(host, deadline)
            if spacing:
                self._gate.hold(host, spacing)
            try:
                own = part(deadline, REQUEST_SECONDS, host)
                return within(own, host, lambda: self._ask(url, max_bytes, own.remaining()))
            except ServerError as error:
                if error.retry_after:
                    self._gate.hold(host, error.retry_after)
                raise

        return persist(once, deadline, PAUSES, attempts=ATTEMPTS)

    def _ask(self, url: str, max_bytes: int, seconds: float) -> Answer:
        _require_local_if_plain(url)
        with _typed(urlsplit(url).netloc), requests.Session() as session:
            session.trust_env = False
            with session.get(
                url,
                headers={"Accept-Encoding": "identity", "User-Agent": "tee-agent"},
                proxies=self._proxies,
                verify=self._verify,
                timeout=(min(CONNECT_SECONDS, seconds), seconds),
                allow_redirects=False,
                stream=True,
            ) as response:
                self._judge(response)
                return Answer(
                    {name.lower(): value for name, value in response.headers.items()}, _body(response, max_bytes)
                )

    def _judge(self, response: requests.Response) -> None:
        status, host = response.status_code, urlsplit(response.url).netloc
        if status == 200:
            return
        if status in _TEMPORARY:
            wish = _retry_after(response.headers.get("Retry-After", ""), self._now())
            later = f", and wants to be asked again in {wish:.0f} s" if wish else ""
            raise ServerError(f"{host} answers {status}{later}", retry_after=wish)
        if 300 <= status < 400:
            where = shown(response.headers.get("Location", "nowhere")[:200])
            raise ProtocolError(f"{host} redirects to {where}", hint="give the final address", code="protocol.redirect")
        if status == 404:
            raise ProtocolError(f"{host} has no {shown(urlsplit(response.url).path)}", code="protocol.not-found")
        raise ProtocolError(f"{host} answers {status} to {shown(urlsplit(response.url).path)}", code="protocol.status")


def _body(response: requests.Response, max_bytes: int) -> bytes:
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise ProtocolError("the answer is compressed, which was not asked for", code="protocol.encoding")
    body = bytearray()
    for piece in response.iter_content(_CHUNK):
        body += piece
        if len(body) > max_bytes:
            raise TooLarge(f"the answer has more than {max_bytes} bytes")
    length = headers.get("Content-Length", "an unknown number of")
    if headers.get("Transfer-Encoding", "").lower() != "chunked" and length != str(len(body)):
        raise TransportError(f"the answer ended after {len(body)} of {length[:20]} bytes", code="transport.cut")
    return bytes(body)


def _retry_after(text: str, now: datetime) -> float:
    """Seconds from a Retry-After header (RFC 9110, section 10.2.3); 0 where it has none that can be read."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _require_local_if_plain(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https":
        return
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise TransportError(f"{parts.hostname} could not be resolved: {error}", code="transport.name") from error
    if parts.scheme != "http" or not all(ipaddress.ip_address(row[4][0]).is_loopback for row in found):
        message = f"{parts.hostname} is another machine: plain http is not spoken to it"
        raise TlsError(message, hint="use https", code="transport.tls.plain")


@contextmanager
def _typed(host: str) -> Iterator[None]:
    """The one table from foreign exceptions to ours; the more special ones first."""
    try:
        yield
    except requests.exceptions.SSLError as error:
        hint = "a service of your own may need its authority named (ca_file)"
        raise TlsError(f"{host}: TLS failed: {_reason(error)}", hint=hint, code="transport.tls.chain") from error
    except requests.exceptions.Timeout as error:
        raise TransportError(f"{host}: no answer in time", code="transport.timeout") from error
    except requests.exceptions.ProxyError as error:
        raise TransportError(f"{host}: the proxy failed: {_reason(error)}", code="transport.proxy") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise TransportError(f"{host}: the connection was cut", code="transport.cut") from error
    except requests.RequestException as error:
        raise TransportError(f"{host}: {_reason(error)}") from error
    except OSError as error:
        raise TransportError(f"{host}: {error.strerror or error}") from error


def _reason(error: BaseException | None) -> str:
    """What the kernel or OpenSSL said, below the layers that wrapped it; else the outermost name."""
    name = type(error).__name__
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__context__
    return name
