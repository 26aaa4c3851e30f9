"""The vendors' services as they misbehave: limits, stalls, redirects, strangers. A real server; only the clock is ours."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from agent.collateral import web as module
from agent.collateral.gate import MAX_HOLD, Gate
from agent.collateral.web import Answer, Web
from agent.core.errors import (
    DeadlineExceeded,
    ProtocolError,
    ServerError,
    TeeAgentError,
    TlsError,
    TooLarge,
    TransportError,
)
from agent.deadline import Deadline
from tests.support.clock import FakeClock
from tests.support.vendor import Reply, Vendor, running_vendor

AT = datetime.now(UTC).replace(microsecond=0)


class Client:
    """A Web on a fake clock, with its file of times in ``folder``."""

    def __init__(self, vendor: Vendor, folder: Path, clock: FakeClock) -> None:
        self.vendor, self.clock, self.file = vendor, clock, folder / "times.json"
        self.web = Web(Gate(self.file, self.now), self.now, authorities=vendor.authority)

    def now(self) -> datetime:
        return AT + timedelta(seconds=self.clock.now)

    def get(self, path: str = "/thing", *, seconds: float = 60, spacing: float = 0.0, max_bytes: int = 100) -> Answer:
        deadline = Deadline(seconds, "test", self.clock)
        return self.web.get(self.vendor.url + path, max_bytes=max_bytes, deadline=deadline, spacing=spacing)


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Vendor]:
    with running_vendor(tmp_path) as running:
        running.replies["/thing"] = Reply(b"what was asked for", headers={"X-Chain": "a%0Ab"})
        yield running


@pytest.fixture
def client(vendor: Vendor, tmp_path: Path) -> Client:
    return Client(vendor, tmp_path, FakeClock())


def test_an_answer(client: Client) -> None:
    answer = client.get()
    assert (answer.body, answer.headers["x-chain"]) == (b"what was asked for", "a%0Ab")
    assert client.clock.sleeps == []


def test_later_means_later(client: Client) -> None:
    client.vendor.fault("/thing", "busy", retry_after="7")
    client.get()
    assert client.clock.now >= 7
    assert client.vendor.requests == ["/thing", "/thing"]


def test_later_as_a_date(client: Client) -> None:
    client.vendor.fault("/thing", "busy", retry_after=format_datetime(AT + timedelta(seconds=20), usegmt=True))
    client.get()
    assert 20 <= client.clock.now < 60


@pytest.mark.parametrize("wish", ["never", "-3", "1e9", "٣", "", "Thu, 99 Foo"])
def test_a_wish_that_is_none(client: Client, wish: str) -> None:
    client.vendor.faults.append(("/thing", Reply(b"", 429, {"Retry-After": wish.encode("utf-8").decode("latin-1")})))
    client.get()
    assert client.clock.now < 20


def test_a_wish_beyond_the_deadline_ends_at_once_and_is_kept(client: Client) -> None:
    client.vendor.fault("/thing", "busy", retry_after="3000")
    with pytest.raises(DeadlineExceeded, match="3000 s"):
        client.get()
    assert client.clock.sleeps == []
    # The next process does not even ask; nor does the one after ten minutes.
    for minutes in (0, 10):
        later = FakeClock()
        later.now = 60.0 * minutes
        with pytest.raises(DeadlineExceeded, match="not to be asked"):
            Client(client.vendor, client.file.parent, later).get()
    assert len(client.vendor.requests) == 1
    later.now = 3001.0
    Client(client.vendor, client.file.parent, later).get()


def test_two_certificates_of_chips_keep_their_distance(client: Client) -> None:
    client.get(spacing=10)
    Client(client.vendor, client.file.parent, client.clock).get(spacing=10)
    assert client.clock.now == pytest.approx(10)
    client.get()
    assert client.clock.now == pytest.approx(20), "this host is left alone whatever is asked"


def test_the_service_s_own_limit(client: Client) -> None:
    """KDS answers 429 without a wish: growing pauses, and not for ever."""
    client.vendor.replies["/v?blSPL=1"] = Reply(b"der")
    client.vendor.rate = lambda: False
    with pytest.raises(ServerError, match="429"):
        client.get("/v?blSPL=1")
    assert len(client.vendor.requests) == module.ATTEMPTS


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"h": "x"}', b'{"h": 1e400}', b"[" * 50_000])
def test_a_damaged_file_of_times_holds_nobody_up(client: Client, content: bytes) -> None:
    client.file.write_bytes(content)
    client.get(spacing=10)
    assert len(json.loads(client.file.read_bytes())) == 1


def test_a_clock_that_was_set_back_holds_nobody_up(client: Client) -> None:
    host = client.vendor.url.partition("//")[2]
    client.file.write_text(json.dumps({host: AT.timestamp() + MAX_HOLD + 1}))
    client.get()
    assert client.clock.sleeps == []


def test_an_endless_wish_is_cut(client: Client) -> None:
    client.vendor.fault("/thing", "busy", retry_after="999999999")
    with pytest.raises(DeadlineExceeded):
        client.get()
    held = next(iter(json.loads(client.file.read_bytes()).values()))
    assert held == AT.timestamp() + MAX_HOLD


@pytest.mark.parametrize(
    ("kind", "expected", "code"),
    [
        ("oversize", TooLarge, "transport.too-large"),
        ("cut", TransportError, "transport.cut"),
        ("endless", TransportError, "transport.cut"),
        ("gone", ProtocolError, "protocol.not-found"),
        ("broken", ServerError, "server"),
        ("compressed", ProtocolError, "protocol.encoding"),
    ],
)
def test_answers_that_are_none(client: Client, kind: str, expected: type[TeeAgentError], code: str) -> None:
    client.vendor.fault("/thing", kind, count=10)
    with pytest.raises(expected) as caught:
        client.get()
    assert caught.value.code == code


@pytest.mark.parametrize(
    "to", ["https://stranger.example/thing", "http://127.0.0.1:1/", "/thing2", "file:///etc/passwd"]
)
def test_redirects_are_not_followed(client: Client, to: str) -> None:
    client.vendor.fault("/thing", "redirect", to=to)
    with pytest.raises(ProtocolError) as caught:
        client.get()
    assert caught.value.code == "protocol.redirect"
    assert client.vendor.requests == ["/thing"]


@pytest.mark.parametrize("kind", ["stall", "drip"])
def test_no_answer_outlasts_the_deadline(kind: str, vendor: Vendor, tmp_path: Path) -> None:
    vendor.fault("/thing", kind, count=10)
    web = Web(Gate(tmp_path / "times", lambda: AT), lambda: AT, authorities=vendor.authority)
    with pytest.raises(TransportError):
        web.get(vendor.url + "/thing", max_bytes=100, deadline=Deadline(2, "test"))
    assert vendor.requests == ["/thing"]


def test_a_server_that_nobody_vouches_for(vendor: Vendor, tmp_path: Path) -> None:
    web = Web(Gate(tmp_path / "times", lambda: AT), lambda: AT)
    with pytest.raises(TlsError) as caught:
        web.get(vendor.url + "/thing", max_bytes=100, deadline=Deadline(20, "test"))
    assert caught.value.code == "transport.tls.chain"
    assert vendor.requests == []


def test_a_server_under_another_name(client: Client) -> None:
    client.vendor.url = client.vendor.url.replace("127.0.0.1", "localhost")
    with pytest.raises(TlsError):
        client.get()


def test_nobody_there(client: Client) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client.vendor.url = f"https://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(TransportError, match="refused"):
            client.get()


def test_plain_http_to_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_vendor(tmp_path, plain=True) as vendor:
        vendor.replies["/thing"] = Reply(b"x")
        web = Web(Gate(tmp_path / "times", lambda: AT), lambda: AT)
        assert web.get(vendor.url + "/thing", max_bytes=100, deadline=Deadline(20, "test")).body == b"x"
        # A name that means this machine to the configuration, and another one to the resolver.
        away = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: away)
        with pytest.raises(TlsError, match="plain http"):
            web.get("http://localhost/thing", max_bytes=100, deadline=Deadline(20, "test"))


def test_the_environment_is_not_looked_at(client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none"))
    assert client.get().body


def test_a_proxy_that_is_away_is_said(vendor: Vendor, tmp_path: Path) -> None:
    web = Web(
        Gate(tmp_path / "times", lambda: AT), lambda: AT, proxy="http://127.0.0.1:9", authorities=vendor.authority
    )
    with pytest.raises(TransportError) as caught:
        web.get(vendor.url + "/thing", max_bytes=100, deadline=Deadline(20, "test", FakeClock()))
    assert caught.value.code == "transport.proxy"
    assert vendor.requests == []


def test_a_proxy_is_a_tunnel(client: Client) -> None:
    """What is asked and answered stays between us and the service: the proxy sees its name."""
    with running_proxy() as (proxy, seen):
        web = Web(Gate(client.file, client.now), client.now, proxy=proxy, authorities=client.vendor.authority)
        deadline = Deadline(20, "test", client.clock)
        assert web.get(client.vendor.url + "/thing", max_bytes=100, deadline=deadline).body == b"what was asked for"
    host = client.vendor.url.partition("//")[2]
    assert seen[0].split()[:2] == [b"CONNECT", host.encode()]
    assert not [line for line in seen if b"/thing" in line]


@contextmanager
def running_proxy() -> Iterator[tuple[str, list[bytes]]]:
    """An http proxy for one connection; the lines that it was sent."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=tunnel, args=(listener, seen))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        listener.close()
        thread.join()


def tunnel(listener: socket.socket, seen: list[bytes]) -> None:
    near, _ = listener.accept()
    with near, near.makefile("rb", buffering=0) as lines:
        while (line := lines.readline()).strip():
            seen.append(line)
        host, _, port = seen[0].split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as far:
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pump, args=(far, near))
            back.start()
            pump(near, far)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(4096):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
