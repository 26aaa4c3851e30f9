"""The TLS transport against a server that floods, breaks off, stalls and drips; and deadlines at every step."""

from __future__ import annotations

import socket
import struct

import pytest

from agent.core.errors import DeadlineExceeded, TooLarge, TransportError
from agent.deadline import Deadline
from agent.transport.stdlib import Answer, Peer, StdlibTransport
from tests.support.certificates import NOW, spki_pin
from tests.support.fake_tas import FakeTas, closed_port, http, raw
from tests.support.transport import LONG, SERVER, Acting, ask, tas

__all__ = ["tas"]


def test_every_request_has_its_own_connection(tas: FakeTas) -> None:
    for _ in range(3):
        ask(tas, (spki_pin(SERVER),))
    assert tas.handshakes == 3


HUGE = b"A" * 100_000
FLOODS = {
    "body": http(200, HUGE),
    "body-without-length": b"HTTP/1.1 200 X\r\n\r\n" + HUGE,
    "claimed-length": http(200, HUGE, length=10**18),
    "chunks": b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nA\r\n" * 50_000,
    "one-chunk": b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n" + HUGE,
    "status-line": b"HTTP/1.1 200 " + HUGE,
    "header-line": b"HTTP/1.1 200 X\r\nA: " + HUGE,
    "headers": b"HTTP/1.1 200 X\r\n" + b"A: b\r\n" * 50_000,
    "continues": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    "trailers": b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 50_000,
}


@pytest.mark.parametrize("flood", FLOODS)
def test_floods_are_cut_off(tas: FakeTas, flood: str) -> None:
    tas.secret_script.append(raw(FLOODS[flood]))
    with pytest.raises(TransportError) as caught:
        ask(tas, (spki_pin(SERVER),), path="/kb/v0/get_secret")
    assert caught.value.code in ("transport.too-large", "transport.http")


@pytest.mark.parametrize("size", [4096, 4097])
def test_the_body_limit_is_exact(tas: FakeTas, size: int) -> None:
    tas.secret_script.append(raw(http(200, b"A" * size)))
    if size == 4096:
        assert len(ask(tas, (spki_pin(SERVER),), path="/kb/v0/get_secret").body) == size
    else:
        with pytest.raises(TooLarge):
            ask(tas, (spki_pin(SERVER),), path="/kb/v0/get_secret")


BROKEN = {
    "short-body": http(200, b"12345", length=9),
    "short-chunk": b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n12345",
    "bad-length": b"HTTP/1.1 200 X\r\nContent-Length: five\r\n\r\n12345",
    "nothing": b"",
    "half-a-head": b"HTTP/1.1 200 X\r\nA: b",
    "no-http": b"220 mail.example ESMTP\r\n\r\n",
    "bad-status": b"HTTP/1.1 abc X\r\n\r\n",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_answers_are_transport_errors(tas: FakeTas, broken: str) -> None:
    tas.secret_script.append(raw(BROKEN[broken]))
    with pytest.raises(TransportError) as caught:
        ask(tas, (spki_pin(SERVER),), path="/kb/v0/get_secret")
    assert caught.value.retry


def test_a_dripping_answer_ends_with_the_deadline(tas: FakeTas) -> None:
    tas.secret_script.append(lambda _: tas.drip(http(200, HUGE)))
    with pytest.raises(DeadlineExceeded):
        ask(tas, (spki_pin(SERVER),), path="/kb/v0/get_secret", seconds=1.0)


def test_a_silent_server_ends_with_the_deadline(tas: FakeTas) -> None:
    tas.secret_script.append(lambda _: tas.drip(b""))
    with pytest.raises(DeadlineExceeded):
        ask(tas, (spki_pin(SERVER),), path="/kb/v0/get_secret", seconds=1.0)


def test_a_server_that_never_shakes_hands_ends_with_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        peer = Peer(f"https://127.0.0.1:{mute.getsockname()[1]}", (spki_pin(SERVER),), lambda: NOW)
        with pytest.raises(DeadlineExceeded):
            StdlibTransport(peer).request(
                "GET", "/", headers={}, body=b"", max_bytes=9, deadline=Deadline(0.5, "handshake")
            )


def test_a_server_that_does_not_read_ends_with_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer = Peer(f"http://127.0.0.1:{mute.getsockname()[1]}", (), lambda: NOW)
        with pytest.raises(DeadlineExceeded):
            StdlibTransport(peer).request(
                "POST", "/", headers={}, body=bytes(64 << 20), max_bytes=9, deadline=Deadline(0.5, "send")
            )


def test_a_connection_that_is_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = Peer(f"http://127.0.0.1:{server.getsockname()[1]}", (), lambda: NOW)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with pytest.raises(TransportError) as caught:
            StdlibTransport(peer).request(
                "GET", "/", headers={}, body=b"", max_bytes=9, deadline=Acting(server, lambda _: None)
            )
    assert caught.value.retry


class _Ending(Deadline):
    """Passes after ``looks`` looks at it."""

    def __init__(self, looks: int) -> None:
        super().__init__(LONG, "t")
        self._looks = looks

    def remaining(self) -> float:
        self._looks -= 1
        if self._looks < 0:
            raise DeadlineExceeded("over")
        return super().remaining()


@pytest.mark.parametrize("looks", range(6))
def test_the_deadline_holds_at_every_step(tas: FakeTas, looks: int) -> None:
    """Resolving, connecting, shaking hands, sending, reading: over is over, and no socket is left open."""
    with pytest.raises(DeadlineExceeded, match="over"):
        StdlibTransport(Peer(tas.url, (spki_pin(SERVER),), lambda: NOW)).request(
            "POST", "/version", headers={}, body=b"b", max_bytes=99, deadline=_Ending(looks)
        )


def test_nobody_listens() -> None:
    with closed_port() as port, pytest.raises(TransportError) as caught:
        StdlibTransport(Peer(f"http://127.0.0.1:{port}", (), lambda: NOW)).request(
            "GET", "/", headers={}, body=b"", max_bytes=9, deadline=Deadline(LONG, "t")
        )
    assert caught.value.retry
    assert "refused" in caught.value.message


@pytest.mark.parametrize("host", ["nonesuch.invalid", "a" * 64 + ".example"])
def test_a_name_that_does_not_resolve(host: str) -> None:
    with pytest.raises(TransportError) as caught:
        StdlibTransport(Peer(f"https://{host}", (spki_pin(SERVER),), lambda: NOW)).request(
            "GET", "/", headers={}, body=b"", max_bytes=9, deadline=Deadline(LONG, "t")
        )
    assert caught.value.code == "transport.name"


def test_a_resolver_that_hangs_ends_with_the_deadline(tas: FakeTas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.transport.stdlib.socket.getaddrinfo", lambda *_, **__: tas.ending.wait())
    with pytest.raises(DeadlineExceeded):
        ask(tas, (spki_pin(SERVER),), seconds=0.3)


def test_answers_are_not_printed() -> None:
    assert "secret" not in repr(Answer(200, {}, b"secret"))
