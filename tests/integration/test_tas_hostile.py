"""Clients of the server that are slow, many, or speak no HTTP: they are cut off, and others are served."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tas.connections import MAX_CONNECTIONS
from tests.support.tas import RunningTas, connected, read_all, running_tas
from tests.support.waiting import awaited

NONCE = "/kb/v0/get_nonce"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /kb/v0/get_secret HTTP/1.1\r\nHost: x\r\n",
        b"GET",
    ],
    ids=["nothing", "half a head", "half a line"],
)
def test_slow_head_is_cut_off(tmp_path: Path, sent: bytes) -> None:
    with running_tas(tmp_path / "tas", arguments=("--read-seconds", "3")) as service:
        with connected(service) as connection:
            connection.sendall(sent)
            assert read_all(connection) == b""
        assert service.request("GET", NONCE).status == 200


def test_slow_body_is_cut_off(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas", arguments=("--read-seconds", "3")) as service:
        key = service.api_key_file.read_text().strip()
        head = f"POST /kb/v0/get_secret HTTP/1.1\r\nHost: x\r\nX-API-KEY: {key}\r\nContent-Type: application/json\r\n"
        with connected(service) as connection:
            connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.endswith(b'{"error":"The request did not arrive in time"}')
        assert service.request("GET", NONCE).status == 200


def test_others_are_served_while_one_is_slow(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas") as service, connected(service) as slow:
        slow.sendall(b"POST /kb/v0/get_secret HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
        assert service.request("GET", NONCE).status == 200


def test_more_connections_than_allowed(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas", arguments=("--read-seconds", "200")) as service, ExitStack() as held:
        for _ in range(MAX_CONNECTIONS):
            held.enter_context(connected(service))
        answers = []
        try:
            with connected(service) as extra:
                extra.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
                answers.append(read_all(extra))
        except OSError:  # cut off as early as in the handshake
            answers.append(b"")
        assert answers == [b""]
        held.close()
        awaited(lambda: service_answers(service))


def service_answers(service: RunningTas) -> bool:
    try:
        return service.request("GET", NONCE).status == 200
    except OSError:
        return False


def test_requests_that_are_sent_on_without_end(tmp_path: Path) -> None:
    """Two answers, and the connection ends: nothing of the rest is kept or answered."""
    ask = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    with running_tas(tmp_path / "tas") as service:
        with connected(service) as connection:
            # One thread: OpenSSL's connections are not made for two.
            with suppress(OSError):
                for _ in range(100):
                    connection.sendall(ask * 1000)
            assert read_all(connection).count(b"HTTP/1.1 401 ") in (0, 1, 2)  # cut off with what was not read
        with connected(service) as connection:
            connection.sendall(ask)
            assert b"Connection: close" not in connection.recv(4096)
            connection.sendall(ask)
            assert b"Connection: close" in read_all(connection)
        assert [line["status"] for line in service.log() if line["event"] == "refused"] == [401] * 4


def test_plain_http_gets_no_answer(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas") as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as plain:
            plain.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not plain.recv(4096).startswith(b"HTTP")
        service.nonce()


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_tls_versions(tmp_path: Path, version: str) -> None:
    with running_tas(tmp_path / "tas") as service:
        context = service.tls()
        context.maximum_version = ssl.TLSVersion[version.replace(".", "_")]
        with connected(service, context) as secure:
            assert secure.version() == version


def test_no_ticket_is_given_that_nobody_resumes(tmp_path: Path) -> None:
    """Each costs a quarter of a handshake, and its key would open what was said before."""
    with running_tas(tmp_path / "tas") as service, connected(service) as secure:
        secure.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert secure.recv(4096).startswith(b"HTTP/1.1 401 ")
        assert secure.version() == "TLSv1.3"
        assert secure.session is None or not secure.session.has_ticket


def test_certificate_satisfies_strict_clients(tmp_path: Path) -> None:
    # Python 3.13 asks for this by default (RFC 5280, as OpenSSL's X509_V_FLAG_X509_STRICT has it).
    with running_tas(tmp_path / "tas") as service:
        context = service.tls()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        with connected(service, context) as secure:
            assert secure.version()


def test_junk_for_http(tmp_path: Path) -> None:
    key = "very-secret-api-key"
    junk = [
        b"\0" * 100 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"X" * 12_000,  # more than a line may have, and not so much that the answer comes before all of it is sent
        f"GET / HTTP/1.1\r\nX-API-KEY {key}\r\n\r\n".encode(),
    ]
    with running_tas(tmp_path / "tas") as service:
        for data in junk:
            with connected(service) as connection:
                connection.sendall(data)
                assert b" 400 " in read_all(connection).partition(b"\r\n")[0]
        service.nonce()
        text = service.log_file.read_text()
        assert key not in text
        assert "Traceback" not in text


def test_rate_limit(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas", arguments=("--rate-limit", "3")) as service:
        answers = [service.request("GET", NONCE) for _ in range(8)]
        # A minute may end in between: of each, the first three are granted.
        by_minute: dict[str, list[int]] = {}
        for answer in answers:
            by_minute.setdefault(answer.headers["X-RateLimit-Reset"], []).append(answer.status)
        assert all(found == ([200] * 3 + [429] * 8)[: len(found)] for found in by_minute.values()), by_minute
        refused = [answer for answer in answers if answer.status == 429]
        assert refused
        assert refused[0].json == {"error": "rate_limit_exceeded", "message": "3 per 1 minute"}
        assert 1 <= int(refused[0].headers["Retry-After"]) <= 60
        assert refused[0].headers["X-RateLimit-Remaining"] == "0"
        granted = [answer for answer in answers if answer.status == 200]
        assert not [answer for answer in granted if "Retry-After" in answer.headers]
        assert service.request("GET", "/version").status == 200
        # Counted before the key is looked at.
        wrong = [service.request("GET", "/alphav1/nonce", headers={"X-API-KEY": "x"}).status for _ in range(8)]
        assert set(wrong) == {401, 429}
