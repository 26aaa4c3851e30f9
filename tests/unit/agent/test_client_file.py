"""The one-file client against a socket that lies, stalls or leaves, and inside programs of all kinds."""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.tee_agent_client import Agent, AgentError, Unreachable
from tests.support.talks import Talk, answer, heard, says, serving

TINY = 0.3
"""Seconds: for what has to run into its time-out."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def test_an_answer_that_is_cut_off_is_no_answer(path: Path) -> None:
    whole = answer(b"a secret of 24 bytes....")
    with serving(path, says(whole[:-1]), says(whole)), Agent(path) as agent:
        with pytest.raises(Unreachable) as caught:
            agent.secret("db")
        assert caught.value.code == "protocol"
        assert agent.secret("db") == b"a secret of 24 bytes...."


def test_an_answer_that_does_not_say_where_it_ends_is_no_answer(path: Path) -> None:
    with serving(path, says(b"HTTP/1.1 200 OK\r\n\r\nhalf of a sec")), Agent(path) as agent:
        with pytest.raises(Unreachable) as caught:
            agent.secret("db")
        assert caught.value.code == "protocol"


def drip(connection: socket.socket) -> None:
    """A byte now and then, for ever."""
    heard(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        threading.Event().wait(TINY / 10)
        connection.sendall(b"x")


def go_on(connection: socket.socket) -> None:
    """Always another answer that is none yet."""
    heard(connection)
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def silent(connection: socket.socket) -> None:
    heard(connection)
    connection.recv(1)


@pytest.mark.parametrize("talk", [drip, go_on, silent], ids=["drip", "go-on", "silent"])
def test_no_answer_takes_longer_than_its_time(path: Path, talk: Talk) -> None:
    with serving(path, talk), Agent(path, timeout=TINY) as agent:
        with pytest.raises(Unreachable) as caught:
            agent.status()
        assert caught.value.code == "transport"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"valid": False, "checks": [], "error": {"code": "verify.signature", "message": "no", "hint": "h"}}, None),
        ({"valid": False}, "protocol"),
        ([], "protocol"),
    ],
)
def test_a_verdict_that_says_no_is_raised(path: Path, document: Any, code: str | None) -> None:
    said = answer(json.dumps(document).encode(), "422 Unprocessable Entity", Content_Type="application/json")
    with serving(path, says(said)), Agent(path) as agent:
        with pytest.raises(AgentError) as caught:
            agent.verify(b"bundle", any_workload=True)
        assert caught.value.code == (code or "verify.signature")
        if code is None:
            assert (caught.value.status, caught.value.detail, caught.value.hint) == (422, "no", "h")
            assert caught.value.verdict == document


@pytest.mark.parametrize("answered", [b"{}", b'{"keys": {}}', b'{"keys": null}', b"[]", b"nonsense", b"[" * 100_000])
def test_what_is_no_list_of_keys(path: Path, answered: bytes) -> None:
    with serving(path, says(answer(answered))), Agent(path) as agent:
        with pytest.raises(Unreachable) as caught:
            agent.list_keys()
        assert caught.value.code == "protocol"


@pytest.mark.parametrize(
    ("said", "seconds"), [("3", 3.0), ("", 0.0), ("soon", 0.0), ("-1", 0.0), ("9" * 400, 0.0), ("Wed, 21 Oct", 0.0)]
)
def test_how_long_to_wait(path: Path, said: str, seconds: float) -> None:
    refusal = answer(
        b'{"code": "server.budget", "detail": "too many"}',
        "429 Too Many Requests",
        Content_Type="application/problem+json",
        Retry_After=said,
    )
    with serving(path, says(refusal)), Agent(path) as agent:
        with pytest.raises(AgentError) as caught:
            agent.challenge(bytes(16))
        assert (caught.value.code, caught.value.retry_after) == ("server.budget", seconds)


def test_nothing_is_asked_twice(path: Path) -> None:
    """Whether the agent signed, or made a key, before it left can't be known: only the caller may try again."""
    requests = []

    def leave(connection: socket.socket) -> None:
        requests.append(heard(connection))

    with serving(path, leave), Agent(path) as agent, pytest.raises(Unreachable):
        agent.create_key("k", "raw")
    assert len(requests) == 1


def test_a_program_with_thousands_of_open_files(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("so many files can't be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    files = []
    try:
        with serving(path, says(answer(b"{}"), answer(b"{}"))):
            files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
            with Agent(path) as agent:
                assert (agent.status(), agent.status()) == ({}, {})
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_forked_process_does_not_read_its_parents_answers(path: Path) -> None:
    reading, writing = os.pipe()
    with serving(
        path, says(answer(b'{"for": "parent"}'), answer(b'{"for": "parent"}')), says(answer(b'{"for": "child"}'))
    ):
        agent = Agent(path)
        agent.status()
        child = os.fork()
        if not child:
            try:
                os.write(writing, json.dumps(agent.status()).encode())
            finally:
                os._exit(0)
        assert agent.status() == {"for": "parent"}
        agent.close()
        os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert json.loads(file.read()) == {"for": "child"}


class Broken(io.RawIOBase):
    """A file on a disk that fails after its first bytes."""

    def __init__(self) -> None:
        self._parts = [b"first"]

    def read(self, size: int = -1) -> bytes:
        if self._parts:
            return self._parts.pop()
        raise OSError(5, "Input/output error")


def test_what_fails_in_the_callers_own_file_is_not_the_agents_fault(path: Path, tmp_path: Path) -> None:
    broken: Any = Broken()
    with serving(path, silent, says(answer(b"signed"))), Agent(path) as agent:
        with pytest.raises(OSError, match="Input/output error"):
            agent.sign(broken)
        with pytest.raises(FileNotFoundError):
            agent.sign(tmp_path / "missing")
        assert agent.sign(b"x") == b"signed"


@pytest.mark.parametrize("payload", [bytearray(b"ab"), memoryview(b"ab"), io.BytesIO(b"ab"), iter([b"a", b"", b"b"])])
def test_bytes_of_every_kind(path: Path, payload: Any) -> None:
    requests = []

    def talk(connection: socket.socket) -> None:
        requests.append(heard(connection))
        connection.sendall(answer(b"signed"))

    with serving(path, talk), Agent(path) as agent:
        assert agent.sign(payload) == b"signed"
    _, _, body = requests[0].partition(b"\r\n\r\n")
    assert body in (b"ab", b"2\r\nab\r\n0\r\n\r\n", b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


def test_a_file_that_is_open_as_text_ends_too(path: Path) -> None:
    text, empty = io.StringIO("abc"), io.StringIO("")
    with serving(path, silent, says(answer(b"signed"))), Agent(path) as agent:
        ask: Any = agent.sign
        with pytest.raises(TypeError):
            ask(text)
        assert ask(empty) == b"signed"


def test_closing_waits_for_the_request_under_way(path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def talk(connection: socket.socket) -> None:
        heard(connection)
        begun.set()
        go_on.wait(30)
        connection.sendall(answer(b"signed"))

    with serving(path, talk):
        agent, signed = Agent(path), []
        asking = threading.Thread(target=lambda: signed.append(agent.sign(b"x")))
        asking.start()
        begun.wait(30)
        closing = threading.Thread(target=agent.close)
        closing.start()
        closing.join(TINY)
        assert closing.is_alive()
        go_on.set()
        asking.join(30)
        closing.join(30)
    assert signed == [b"signed"]
