"""How the one-file client's requests go out: small ones in one piece, large and endless ones as they are."""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agent import tee_agent_client
from agent.core.access import Decision, Members, Rules, Wish
from agent.core.errors import FormatError
from agent.daemon import body
from agent.daemon.dispatch import Call, Routes, as_bytes
from agent.daemon.guard import Guard
from agent.daemon.peers import Caller
from agent.daemon.web import Response
from agent.tee_agent_client import CHUNK, Agent, AgentError, Unreachable
from tests.support.doors import handler
from tests.support.doors import serving as door
from tests.support.talks import answer, heard, says, serving
from tests.support.turns import Signer


@dataclass
class Sends:
    """What went into the socket, call by call."""

    calls: list[Any] = field(default_factory=list)

    def flat(self) -> bytes:
        return b"".join(map(bytes, self.calls))


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> Sends:
    found = Sends()

    def sendall(sock: socket.socket, data: Any) -> None:
        found.calls.append(data)
        socket.socket.sendall(sock, data)

    monkeypatch.setattr(tee_agent_client._Socket, "sendall", sendall, raising=False)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


KINDS: list[Callable[[bytes], Any]] = [bytes, bytearray, memoryview]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 256, CHUNK])
def test_head_and_body_are_one_piece(path: Path, sends: Sends, size: int, kind: Callable[[bytes], Any]) -> None:
    payload = os.urandom(size)
    with serving(path, says(answer(b"signed"), answer(b"signed"))), Agent(path) as agent:
        assert agent.sign(kind(payload)) == agent.sign(kind(payload)) == b"signed"
    assert len(sends.calls) == 2
    for call in sends.calls:
        head, _, data = call.partition(b"\r\n\r\n")
        assert data == payload
        assert head.lower().count(b"\r\ncontent-length: %d" % size) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_body_is_not_copied(path: Path, sends: Sends, kind: Callable[[bytes], Any]) -> None:
    payload = kind(os.urandom(CHUNK + 1))
    with serving(path, says(answer(b"signed"))), Agent(path) as agent:
        assert agent.sign(payload) == b"signed"
    head, data = sends.calls
    assert head.endswith(b"\r\n\r\n")
    assert data is payload


def test_what_is_small_is_counted_in_bytes(path: Path, sends: Sends) -> None:
    payload = memoryview(bytearray(2 * CHUNK)).cast("Q")
    with serving(path, says(answer(b"signed"))), Agent(path) as agent:
        assert agent.sign(payload) == b"signed"
    assert len(sends.calls) == 2


def test_chunks_go_out_one_by_one(path: Path, sends: Sends) -> None:
    """None is made before the one before it went out: however long the stream, one is in memory."""
    alive: list[int] = []

    def stream() -> Iterator[bytes]:
        for number in range(5):
            alive.append(len(sends.calls))
            yield b"%d" % number * CHUNK

    with serving(path, says(answer(b"signed"))), Agent(path) as agent:
        assert agent.sign(stream()) == b"signed"
    assert alive == [1, 2, 3, 4, 5]
    assert max(map(len, sends.calls)) < CHUNK + 32


@pytest.mark.parametrize("payload", [b"", None])
def test_a_request_without_a_body(path: Path, sends: Sends, payload: bytes | None) -> None:
    with serving(path, says(answer(b"known"))), Agent(path) as agent:
        assert agent.request("POST", "/v1/secrets/db", payload) == b"known"
    assert len(sends.calls) == 1
    assert sends.flat().endswith(b"\r\nContent-Length: 0\r\n\r\n")


def test_what_could_not_be_sent_does_not_go_out_with_the_next_request(path: Path, sends: Sends) -> None:
    agent = Agent(path)
    with pytest.raises(Unreachable):
        agent.seal(b"a secret")
    with pytest.raises(ValueError, match="Invalid header"):
        agent.request("POST", "/v1/seal", b"a secret", {"A\n": "b"})
    with serving(path, says(answer(b"{}"))), agent:
        assert agent.status() == {}
    assert sends.flat().endswith(b"\r\n\r\n")
    assert b"secret" not in sends.flat()


@pytest.fixture(params=[CHUNK, -1], ids=["one piece", "two pieces"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, sends: Sends) -> Iterator[int]:
    """Of each request with a body: the sends it takes, which are checked afterwards."""
    monkeypatch.setattr(tee_agent_client, "CHUNK", request.param)
    pieces = 1 if request.param == CHUNK else 2
    yield pieces
    assert len(sends.calls) % pieces == 0
    heads = sum(call.startswith(b"POST ") for call in sends.calls)
    assert heads * pieces == len(sends.calls) > 0


def test_one_piece_is_answered_the_short_way(tmp_path: Path, form: int) -> None:
    signer, given = Signer(), list[bytes]()

    def client(path: Path) -> None:
        with Agent(path) as agent:
            given.extend(agent.request("POST", "/sign", data) for data in (b"one", b"two", b"six"))

    door(tmp_path, signer.routes(), client)
    assert [each.partition(b":")[2] for each in given] == [b"one", b"two", b"six"]
    if form == 1:
        assert signer.short == [b"two", b"six"]


REFUSAL = answer(
    b'{"code": "format.oversized", "detail": "too much"}', "413 Too Large", Content_Type="application/problem+json"
)


def leave(connection: socket.socket) -> None:
    """Refuses by the head alone, and hangs up with the body unread, or unsent."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    connection.sendall(REFUSAL)


@pytest.mark.usefixtures("form")
def test_why_it_was_refused_is_read_where_the_agent_leaves(path: Path) -> None:
    with serving(path, leave, says(answer(b"signed"))), Agent(path) as agent:
        with pytest.raises(AgentError) as caught:
            agent.sign(b"x" * 256)
        assert (caught.value.status, caught.value.code) == (413, "format.oversized")
        assert agent.sign(b"y") == b"signed"


def test_why_it_was_refused_is_read_where_nothing_could_be_sent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = threading.Event()

    def refuse(connection: socket.socket) -> None:
        connection.sendall(REFUSAL)
        connection.close()
        left.set()

    def sendall(sock: socket.socket, data: bytes) -> None:
        assert left.wait(20)
        socket.socket.sendall(sock, data)

    monkeypatch.setattr(tee_agent_client._Socket, "sendall", sendall, raising=False)
    with serving(path, refuse), Agent(path) as agent, pytest.raises(AgentError) as caught:
        agent.sign(b"x")
    assert (caught.value.status, caught.value.code) == (413, "format.oversized")


def test_a_body_is_not_kept(path: Path) -> None:
    payload = memoryview(b"a secret")
    kept = weakref.ref(payload)
    with serving(path, says(answer(b"sealed"))), Agent(path) as agent:
        assert agent.request("POST", "/v1/seal", payload) == b"sealed"
        del payload
        assert kept() is None


@pytest.mark.usefixtures("form")
def test_both_forms_say_the_same(path: Path) -> None:
    said: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        said.append(heard(connection))
        connection.sendall(answer(b"signed"))

    with serving(path, talk), Agent(path) as agent:
        assert agent.sign(b"x" * 256, context="c") == b"signed"
    assert said == [
        b"POST /v1/sign?context=c HTTP/1.1\r\nHost: agent\r\nAccept-Encoding: identity\r\nContent-Length: 256\r\n"
        b"Content-Type: application/octet-stream\r\n\r\n" + b"x" * 256
    ]


class Door(Guard):
    """Says no to everybody: by the rules alone root could do everything."""

    def decide(self, caller: Caller, wish: Wish) -> Decision:
        return replace(super().decide(caller, wish), allowed=False)


async def little(call: Call) -> Response:
    data = b"".join([part async for part in body.chunks(call.request, 8)])
    if data == b"wrong":
        raise FormatError("not what it should be", record="body")
    return as_bytes(data, "text/plain")


ROUTES: Routes = {"/little": {"POST": handler(little)}}
SHUT = Door(lambda: Rules(members=Members(frozenset({os.getuid()}))))


@dataclass(frozen=True)
class Refused:
    """What is asked, and how it is refused."""

    path: str
    payload: bytes
    status: int
    code: str
    guard: Guard | None = None


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(
    "case",
    [
        Refused("/little", b"123456789", 413, "format.oversized"),
        Refused("/little", b"9" * 100_000, 413, "format.oversized"),
        Refused("/little", b"wrong", 400, "format"),
        Refused("/nowhere", b"x", 404, "usage.path"),
        Refused("/little", b"x", 403, "denied.policy", SHUT),
        Refused("/little", b"9" * 100_000, 403, "denied.policy", SHUT),
    ],
    ids=["a byte", "large", "wrong", "nowhere", "denied", "large and denied"],
)
def test_refusals_are_the_same_in_both_forms(tmp_path: Path, case: Refused) -> None:
    found: list[tuple[int, str]] = []

    def client(path: Path) -> None:
        with Agent(path) as agent:
            for _ in range(3):
                with pytest.raises(AgentError) as caught:
                    agent.request("POST", case.path, case.payload)
                found.append((caught.value.status, caught.value.code))

    door(tmp_path, ROUTES, client, guard=case.guard)
    assert found == [(case.status, case.code)] * 3
