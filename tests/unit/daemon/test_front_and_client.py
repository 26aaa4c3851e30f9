"""Time limits of a connection, and our own client against servers that misbehave: over real sockets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.client import Client
from agent.core.access import Decision, Wish
from agent.core.errors import DeadlineExceeded, Denied, FormatError, ProtocolError, ServerError, TransportError
from agent.daemon import admission, body, sockets
from agent.daemon.dispatch import Act, Call, Handler
from agent.daemon.web import Response
from agent.deadline import Deadline
from tests.support.doors import serving, talk


async def swallow(call: Call) -> tuple[Wish, Act]:
    async def act(_: Decision) -> Response:
        return Response(str((await body.payload(call.request)).size).encode())

    return Wish("sign"), act


async def defect(_: Call) -> tuple[Wish, Act]:
    raise ZeroDivisionError


ROUTES: dict[str, dict[str, Handler]] = {"/swallow": {"POST": swallow}, "/defect": {"GET": defect}}


@pytest.mark.parametrize("said", [b"", b"POST /swa", b"POST /swallow HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_that_does_not_come_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(admission, "FIRST_SECONDS", 0.05)

    def client(path: Path) -> None:
        assert talk(path, said) == b""

    assert serving(tmp_path, ROUTES, client).count() == 0


def test_a_body_that_does_not_come_gets_408(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "STALL_SECONDS", 0.05)
    head = b"POST /swallow HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhalf"

    def client(path: Path) -> None:
        answer = talk(path, head)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"usage.timeout" in answer

    serving(tmp_path, ROUTES, client)


def test_a_body_may_not_take_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "TOTAL_SECONDS", 0.0)
    head = b"POST /swallow HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhalf"

    def client(path: Path) -> None:
        assert talk(path, head).startswith(b"HTTP/1.1 408 ")

    serving(tmp_path, ROUTES, client)


def test_more_than_allowed_in_chunks_gets_413(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "MAX_PAYLOAD", 8)
    head = b"POST /swallow HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"

    def client(path: Path) -> None:
        assert talk(path, head, b"8\r\n12345678\r\n1\r\n9\r\n0\r\n\r\n").startswith(b"HTTP/1.1 413 ")
        assert talk(path, head, b"8\r\n12345678\r\n0\r\n\r\n").endswith(b"\r\n\r\n8")

    serving(tmp_path, ROUTES, client)


def test_expectations_are_met(tmp_path: Path) -> None:
    head = (
        b"POST /swallow HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )

    def client(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(path))
            sock.sendall(head)
            assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"ab")
            assert b"".join(iter(lambda: sock.recv(1 << 16), b"")).endswith(b"\r\n\r\n2")

    serving(tmp_path, ROUTES, client)


def test_our_own_defects_are_logged_and_told_as_500(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def client(path: Path) -> None:
        assert talk(path, b"GET /defect HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 500 ")
        assert talk(path, b"no http\r\n\r\n").startswith(b"HTTP/1.1 400 ")

    serving(tmp_path, ROUTES, client)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


def test_drain_ends_idle_connections(tmp_path: Path) -> None:
    held = socket.socket(socket.AF_UNIX)

    def client(path: Path) -> None:
        held.settimeout(20)
        held.connect(str(path))
        held.sendall(b"POST /swallow HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        answer = held.recv(1000)
        while not answer.endswith(b"\r\n\r\n0"):
            answer += held.recv(1000)

    with held:
        serving(tmp_path, ROUTES, client)
        assert held.recv(10) == b""


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[[bytes], Client]]:
    """A client of a server that reads a little and answers these bytes, whatever was asked."""
    threads: list[threading.Thread] = []

    def serve(listener: sockets.Listener, said: bytes) -> None:
        accepted, _ = listener.sock.accept()
        with accepted, listener.sock:
            accepted.recv(1 << 16)
            accepted.sendall(said)

    def make(said: bytes) -> Client:
        listener = sockets.listen(tmp_path, "server")
        os.close(listener.lock)
        threads.append(threading.Thread(target=serve, args=(listener, said)))
        threads[-1].start()
        return Client(listener.path)

    yield make
    for thread in threads:
        thread.join()


def in_time() -> Deadline:
    return Deadline(20, "test")


def http(status: str, data: bytes, media_type: str = "application/json", more: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode() + data
    )


PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", TransportError),
        (b"hello\r\n\r\n", ProtocolError),
        (http("200 OK", b"[]"), ProtocolError),
        (http("200 OK", b"{"), ProtocolError),
        (http("500 Oops", b"<html>"), ProtocolError),
        (http("403 No", b"x", PROBLEM), ProtocolError),
        (http("403 No", b'{"code":"denied","detail":"d"}', PROBLEM), Denied),
        (http("400 No", b'{"code":"format.json","detail":"d"}', PROBLEM), FormatError),
        (http("302 Found", b"", "text/plain", "Location: http://elsewhere/\r\n"), ProtocolError),
    ],
    ids=["nothing", "no http", "list", "cut", "html", "no problem", "denied", "format", "redirect"],
)
def test_answers_that_are_refusals(answering: Callable[[bytes], Client], said: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        answering(said).status(in_time())


def test_retry_after_reaches_the_caller(answering: Callable[[bytes], Client]) -> None:
    said = http("429 Later", b'{"code":"server.budget","detail":"d"}', PROBLEM, "Retry-After: 7\r\n")
    with pytest.raises(ServerError) as caught:
        answering(said).challenge({"nonce": "00"}, in_time())
    assert (caught.value.retry_after, caught.value.code) == (7, "server.budget")


def test_answers_are_bounded(answering: Callable[[bytes], Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.tee_agent_client.MAX_ANSWER", 10)
    with pytest.raises(ProtocolError, match="more than 10"):
        answering(http("200 OK", b"x" * 11)).keys(in_time())


def test_a_mute_agent(tmp_path: Path) -> None:
    listener = sockets.listen(tmp_path, "mute")
    os.close(listener.lock)
    with listener.sock, pytest.raises(DeadlineExceeded):
        Client(listener.path).status(Deadline(0.05, "test"))


def test_no_agent(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="No such file") as caught:
        Client(tmp_path / "agent.sock").status(in_time())
    assert (caught.value.code, caught.value.exit_status) == ("transport.no-daemon", 75)
