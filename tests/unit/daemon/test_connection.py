"""What a connection does with its requests: their order, their ends, and clients that break off or go on."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.errors import Denied
from agent.daemon import connection
from agent.daemon.dispatch import Call
from agent.daemon.turn import Turn
from agent.daemon.web import Response
from tests.support.connections import GET, LAST, POST, ROUTES, bodies, size
from tests.support.doors import dial, handler, rest, serving, talk


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_requests_behind_each_other_are_answered_in_order(tmp_path: Path, step: int) -> None:
    chunked = (
        b"POST /size HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\r\n0\r\n5\r\n\r\n0\r\n\r\n0\r\n\r\n"
    )
    said = GET % b"slowly?1" + POST % 4 + b"GET " + chunked + GET % b"name?2" + POST % 0 + chunked + LAST

    def client(path: Path) -> None:
        with dial(path) as sock:
            for at in range(0, len(said), step):
                sock.sendall(said[at : at + step])
            assert bodies(rest(sock)) == [b"<1>", b"4", b"8", b"<2>", b"0", b"8", b"<>"]

    serving(tmp_path, ROUTES, client)


def test_many_requests_at_once_are_all_answered(tmp_path: Path) -> None:
    count = 3000

    def client(path: Path) -> None:
        with dial(path) as sock:
            thread = threading.Thread(target=sock.sendall, args=(GET % b"name" * count + LAST,))
            thread.start()
            assert len(bodies(rest(sock))) == count + 1
            thread.join()

    serving(tmp_path, ROUTES, client)


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        (b"HEAD /name HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", [b"HTTP/1.1 405 ", b"Allow: GET"]),
        (b"DELETE /name HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", [b"HTTP/1.1 405 ", b"usage.method"]),
        (b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", [b"HTTP/1.1 404 ", b"usage.path"]),
        (b"GET /name HTTP/1.0\r\n\r\n", [b"HTTP/1.1 200 OK", b"Connection: close", b"Server: tee-agent", b"Date: "]),
        (b"no http\r\n\r\n", [b"HTTP/1.1 400 ", b"Connection: close", b"Content-Length: 0\r\n\r\n"]),
        (b"A" * 20_000, [b"HTTP/1.1 400 "]),
    ],
    ids=["head", "method", "path", "1.0", "no http", "long"],
)
def test_forms_of_answers(tmp_path: Path, said: bytes, lines: list[bytes]) -> None:
    def client(path: Path) -> None:
        answer = talk(path, said)
        assert [line for line in lines if line not in answer] == []
        assert answer.count(b"HTTP/1.1") == 1
        if said.startswith(b"HEAD"):
            assert answer.endswith(b"\r\n\r\n")

    serving(tmp_path, ROUTES, client)


def test_what_is_smuggled_behind_a_broken_request_is_not_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"

    def client(path: Path) -> None:
        for broken in (both, b"GET /name HTTP/1.1\nHost: a\n\n", b"\0" * 100 + b"\r\n\r\n"):
            answer = talk(path, broken + LAST)
            assert (answer.count(b"HTTP/1.1"), answer[:13]) == (1, b"HTTP/1.1 400 ")

    serving(tmp_path, ROUTES, client)
    assert caplog.records == []


def test_a_body_that_breaks_is_told_to_its_handler_and_is_the_last(tmp_path: Path) -> None:
    begun = threading.Event()

    async def begin(call: Call) -> Response:
        begun.set()
        return await size(call)

    def client(path: Path) -> None:
        with dial(path) as sock:
            sock.sendall(b"POST /begin HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab")
            assert begun.wait(60)
            sock.sendall(b"XX" + LAST)
            answer = rest(sock)
        assert (answer.count(b"HTTP/1.1"), answer[:13]) == (1, b"HTTP/1.1 400 ")
        assert b'"code": "format"' in answer

    serving(tmp_path, {"/begin": {"POST": handler(begin)}}, client)


def test_who_ends_its_own_side_gets_all_answers(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        with dial(path) as sock:
            sock.sendall(GET % b"slowly?1" + GET % b"slowly?2" + GET % b"name?3" + b"GET /half")
            sock.shutdown(socket.SHUT_WR)
            assert bodies(rest(sock)) == [b"<1>", b"<2>", b"<3>"]
        with dial(path) as sock:
            sock.sendall(GET % b"name" * 50)
            sock.shutdown(socket.SHUT_WR)
            assert bodies(rest(sock)) == [b"<>"] * 50
        with dial(path) as sock:
            sock.sendall(POST % 9 + b"half")
            sock.shutdown(socket.SHUT_WR)
            assert rest(sock).startswith(b"HTTP/1.1 400 ")

    serving(tmp_path, ROUTES, client)


def test_who_leaves_takes_the_request_along(tmp_path: Path) -> None:
    begun, left = threading.Event(), threading.Event()

    async def wait(_: Call) -> Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError

    def client(path: Path) -> None:
        with dial(path) as sock:
            sock.sendall(GET % b"wait")
            assert begun.wait(60)
        assert left.wait(60)
        assert bodies(talk(path, LAST)) == [b"<>"]

    serving(tmp_path, {**ROUTES, "/wait": {"GET": handler(wait)}}, client)


def test_who_still_sends_gets_the_refusal(tmp_path: Path) -> None:
    """A large body that nobody reads: the answer comes, the connection ends, the client is not reset before."""

    def client(path: Path) -> None:
        with dial(path) as sock:
            sock.sendall(b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n" + bytes(2_000_000))
            assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
            sock.sendall(bytes(1_000_000))
            assert sock.recv(10) == b""

    serving(tmp_path, ROUTES, client)


def test_who_never_stops_sending_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.05)

    def client(path: Path) -> None:
        with dial(path) as sock, pytest.raises(OSError):
            sock.sendall(b"POST /refuse HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                sock.sendall(b"1\r\nx\r\n" * 1000)

    serving(tmp_path, ROUTES, client)


def test_nobody_is_asked_for_a_body_that_is_not_read(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        head = b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
        assert talk(path, head).startswith(b"HTTP/1.1 200 OK")

    serving(tmp_path, ROUTES, client)


def test_who_is_denied_is_hung_up_on(tmp_path: Path) -> None:
    async def deny(_: Call) -> Response:
        raise Denied("no")

    def client(path: Path) -> None:
        answer = talk(path, GET % b"deny" + GET % b"name")
        assert (answer.count(b"HTTP/1.1"), answer[:13]) == (1, b"HTTP/1.1 403 ")

    serving(tmp_path, {**ROUTES, "/deny": {"GET": handler(deny)}}, client)


def turn(use: Callable[[Turn, asyncio.Task[None], list[str]], None]) -> list[str]:
    """What happened to a task that waits for its turn."""
    seen: list[str] = []

    async def main() -> None:
        mine = Turn(loop=asyncio.get_running_loop())

        async def wait() -> None:
            try:
                await mine
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise
            task = asyncio.current_task()
            seen.append(f"came {task is not None}")

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(use, mine, task, seen)
        await asyncio.wait([task])

    asyncio.run(main())
    return seen


def test_a_turn_comes_at_once_and_in_the_waiters_own_task() -> None:
    def use(mine: Turn, _: asyncio.Task[None], seen: list[str]) -> None:
        mine.come()
        seen.append("afterwards")

    assert turn(use) == ["came True", "afterwards"]


def test_who_waits_for_a_turn_can_be_cancelled() -> None:
    def use(_: Turn, task: asyncio.Task[None], __: list[str]) -> None:
        task.cancel()

    assert turn(use) == ["cancelled"]
