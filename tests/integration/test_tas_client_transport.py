"""The TLS transport against a loopback server that lies, stalls, drips and floods."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core.config import Pin
from agent.core.errors import ConfigError, DeadlineExceeded, TlsError, TooLarge, TransportError
from agent.deadline import Deadline
from agent.transport.stdlib import Answer, Peer, StdlibTransport
from tests.support.certificates import NOW, Identity, ca_pin, make, spki_pin
from tests.support.fake_tas import FakeTas, closed_port, http, raw

LONG = 30.0
ROOT = make("root", authority=True)
INTERMEDIATE = make("intermediate", ROOT, authority=True)
SERVER = make("server", INTERMEDIATE)
STRANGER = make("stranger")


def ask(
    tas: FakeTas,
    pins: tuple[Pin, ...],
    *,
    url: str = "",
    authorities: bytes = b"",
    at: datetime = NOW,
    seconds: float = LONG,
    max_bytes: int = 4096,
    path: str = "/version",
) -> Answer:
    transport = StdlibTransport(Peer(url or tas.url, pins, lambda: at, authorities))
    return transport.request(
        "GET", path, headers={"X-API-KEY": "identifier"}, body=b"", max_bytes=max_bytes, deadline=Deadline(seconds, "t")
    )


def serving(tmp_path: Path, identity: Identity) -> FakeTas:
    return FakeTas(identity.chain_file(tmp_path / "server.pem"))


@pytest.fixture
def tas(tmp_path: Path) -> Iterator[FakeTas]:
    with serving(tmp_path, SERVER) as running:
        yield running


def refused(tas: FakeTas, error: type[TransportError], code: str, pins: tuple[Pin, ...], **how: Any) -> None:
    """The peer is refused with this code, and got no byte of ours."""
    with pytest.raises(error) as caught:
        ask(tas, pins, **how)
    assert caught.value.code == code
    assert tas.seen == []


def test_spki_pin_ignores_dates_and_names(tmp_path: Path) -> None:
    old = make("old", address="192.0.2.1", begins=NOW - timedelta(days=900), ends=NOW - timedelta(days=800))
    with serving(tmp_path, old) as tas:
        assert ask(tas, (spki_pin(STRANGER), spki_pin(old))).status == 200


def test_other_key_gets_no_byte(tas: FakeTas) -> None:
    refused(tas, TlsError, "transport.tls.pin", (spki_pin(STRANGER), spki_pin(ROOT), spki_pin(INTERMEDIATE)))
    assert tas.early_bytes == 0


def test_a_ca_pin_is_no_spki_pin(tas: FakeTas) -> None:
    refused(tas, TlsError, "transport.tls.pin", (Pin("spki", ROOT.digest),))


@pytest.mark.parametrize("pinned", [ROOT, INTERMEDIATE], ids=["root", "intermediate"])
def test_ca_pin_accepts_chain_name_and_time(tas: FakeTas, pinned: Identity) -> None:
    pem = STRANGER.pem() + ROOT.pem() + INTERMEDIATE.pem()
    assert ask(tas, (ca_pin(pinned),), authorities=pem).status == 200


def test_ca_file_alone_is_not_believed(tas: FakeTas) -> None:
    with pytest.raises(ConfigError, match="pinned key"):
        ask(tas, (ca_pin(STRANGER),), authorities=ROOT.pem())


def test_ca_pin_refuses_another_chain(tas: FakeTas) -> None:
    other = make("other root", authority=True)
    refused(tas, TlsError, "transport.tls.chain", (ca_pin(other),), authorities=other.pem() + ROOT.pem())


def test_ca_pin_refuses_another_name(tmp_path: Path) -> None:
    with serving(tmp_path, make("elsewhere", INTERMEDIATE, address="127.0.0.2")) as tas:
        refused(tas, TlsError, "transport.tls.chain", (ca_pin(ROOT),), authorities=ROOT.pem())


@pytest.mark.parametrize("days", [-2, 31])
def test_ca_pin_judges_times_at_the_time_given(tas: FakeTas, days: int) -> None:
    at = NOW + timedelta(days=days)
    refused(tas, TlsError, "transport.tls.validity", (ca_pin(ROOT),), authorities=ROOT.pem(), at=at)


def test_ca_pin_judges_intermediates_too(tmp_path: Path) -> None:
    short = make("short-lived", ROOT, authority=True, ends=NOW + timedelta(days=1))
    with serving(tmp_path, make("server", short)) as tas:
        assert ask(tas, (ca_pin(ROOT),), authorities=ROOT.pem()).status == 200
        tas.seen.clear()
        at = NOW + timedelta(days=2)
        refused(tas, TlsError, "transport.tls.validity", (ca_pin(ROOT),), authorities=ROOT.pem(), at=at)


def test_certificates_of_a_wrong_clock_are_accepted_at_build_time(tmp_path: Path) -> None:
    built = datetime(2040, 1, 1, tzinfo=UTC)
    root = make("root", authority=True, begins=built - timedelta(days=1), ends=built + timedelta(days=9))
    server = make("server", root, begins=built - timedelta(days=1), ends=built + timedelta(days=9))
    with serving(tmp_path, server) as tas:
        assert ask(tas, (ca_pin(root),), authorities=root.pem(), at=built).status == 200


def test_both_kinds_of_pins_spki_first(tas: FakeTas) -> None:
    assert ask(tas, (ca_pin(ROOT), spki_pin(SERVER)), authorities=ROOT.pem(), at=NOW + timedelta(days=99)).status == 200
    assert ask(tas, (ca_pin(ROOT), spki_pin(STRANGER)), authorities=ROOT.pem()).status == 200
    tas.seen.clear()
    refused(tas, TlsError, "transport.tls.chain", (ca_pin(STRANGER), spki_pin(ROOT)), authorities=STRANGER.pem())


def test_https_without_pins_is_refused(tas: FakeTas) -> None:
    refused(tas, TlsError, "transport.tls.pin", ())


def test_old_tls_is_refused(tmp_path: Path) -> None:
    """A server that speaks TLS 1.1 at most."""
    with serving(tmp_path, SERVER) as tas:
        tas.old_tls = True
    with tas:
        refused(tas, TlsError, "transport.tls", (spki_pin(SERVER),))


def test_plain_http_to_loopback_only() -> None:
    with FakeTas() as tas:
        assert ask(tas, ()).status == 200
        tas.seen.clear()
        refused(tas, TlsError, "transport.tls.plain", (), url="http://192.0.2.1:9")


def test_plain_http_on_a_tls_port(tas: FakeTas) -> None:
    with pytest.raises(TransportError):
        ask(tas, (), url=tas.url.replace("https", "http"))
    assert tas.seen == []


def test_tls_to_a_plain_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = Peer(f"https://127.0.0.1:{server.getsockname()[1]}", (spki_pin(SERVER),), lambda: NOW)
        deadline = _Acting(server, lambda connection: connection.sendall(http(400, b"speak http")))
        with pytest.raises(TlsError):
            StdlibTransport(peer).request("GET", "/", headers={}, body=b"", max_bytes=9, deadline=deadline)


def test_redirect_is_not_followed(tas: FakeTas) -> None:
    tas.secret_script.append(raw(http(302, b"", f"Location: {tas.url}/version")))
    answer = ask(tas, (spki_pin(SERVER),), path="/kb/v0/get_secret")
    assert (answer.status, len(tas.seen)) == (302, 1)


def test_proxies_of_the_environment_are_not_used(tas: FakeTas, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask(tas, (spki_pin(SERVER),)).status == 200


def test_request_as_sent(tas: FakeTas) -> None:
    transport = StdlibTransport(Peer(tas.url + "/prefix", (spki_pin(SERVER),), lambda: NOW))
    answer = transport.request(
        "POST", "/version", headers={"X-A": "b"}, body=b"body", max_bytes=99, deadline=Deadline(LONG, "t")
    )
    assert answer.body == b'{"version": "0.1.0"}'
    assert answer.headers["connection"] == "close"
    [seen] = tas.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/prefix/version", b"body")
    assert seen.headers == {
        "host": f"127.0.0.1:{tas.port}",
        "connection": "close",
        "accept-encoding": "identity",
        "x-a": "b",
        "content-length": "4",
    }


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
                "GET", "/", headers={}, body=b"", max_bytes=9, deadline=_Acting(server, lambda _: None)
            )
    assert caught.value.retry


class _Acting(Deadline):
    """A server in the client's own thread: whoever has connected when time is looked at meets ``act`` and is dropped."""

    def __init__(self, server: socket.socket, act: Callable[[socket.socket], None]) -> None:
        super().__init__(LONG, "t")
        self._server = server
        self._act = act
        self._server.setblocking(False)

    def remaining(self) -> float:
        try:
            connection, _ = self._server.accept()
        except BlockingIOError:
            return super().remaining()
        with connection:
            self._act(connection)
        return super().remaining()


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
