"""What a connection does with its requests: order, ends, waiting, and clients that leave, stall or never read."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.errors import Denied
from agent.daemon import admission, body, connection, front
from agent.daemon.dispatch import Call, Routes, as_bytes
from agent.daemon.front import Front
from agent.daemon.turn import Turn
from agent.daemon.web import HIGH_WATER, Response
from tests.support.doors import dial, handler, rest, serving, talk

GET = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
LAST = b"GET /name HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def size(call: Call) -> Response:
    found = 0
    async for chunk in body.chunks(call.request, 1 << 30):
        found += len(chunk)
    return as_bytes(b"%d" % found, "text/plain")


async def name(call: Call) -> Response:
    return as_bytes(f"<{call.request.query_string}>".encode(), "text/plain")


async def slowly(call: Call) -> Response:
    for _ in range(3):
        await asyncio.sleep(0)
    return await name(call)


async def refuse(call: Call) -> Response:
    return as_bytes(b"no", "text/plain")


ROUTES: Routes = {
    "/size": {"POST": handler(size)},
    "/name": {"GET": handler(name)},
    "/slowly": {"GET": handler(slowly)},
    "/refuse": {"POST": handler(refuse)},
}


def bodies(answers: bytes) -> list[bytes]:
    """The bodies of answers that all have a length."""
    found = []
    while answers:
        head, _, answers = answers.partition(b"\r\n\r\n")
        (length,) = (int(line.split()[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
        found.append(answers[:length])
        answers = answers[length:]
    return found


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
            assert begun.wait(20)
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
            assert begun.wait(20)
        assert left.wait(20)
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


def fill(sock: socket.socket, data: bytes) -> int:
    """Send until the other side takes no more; how much it took."""
    sock.settimeout(0.5)
    sent = 0
    try:
        while True:
            sent += sock.send(data)
    except TimeoutError:
        return sent
    finally:
        sock.settimeout(20)


def test_a_body_waits_for_its_reader(tmp_path: Path) -> None:
    go = threading.Event()
    held: list[int] = []

    async def later(call: Call) -> Response:
        await asyncio.to_thread(go.wait)
        held.append(len(call.request.body.take()))
        return await size(call)

    def client(path: Path) -> None:
        with dial(path) as sock:
            total = 20_000_000
            sock.sendall(b"POST /later HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % total)
            sent = fill(sock, bytes(1 << 16))
            assert sent < 2_000_000
            go.set()
            sock.sendall(bytes(total - sent))
            assert bodies(rest(sock)) == [b"%d" % (total - held[0])]

    serving(tmp_path, {**ROUTES, "/later": {"POST": handler(later)}}, client)
    assert 0 < held[0] <= HIGH_WATER + (1 << 16)


def large(count: list[int]) -> Routes:
    async def answer(_: Call) -> Response:
        count[0] += 1
        return as_bytes(bytes(300_000), "text/plain")

    return {**ROUTES, "/large": {"GET": handler(answer)}}


def test_who_does_not_read_is_asked_no_more_and_disturbs_nobody(tmp_path: Path) -> None:
    count = [0]

    def client(path: Path) -> None:
        with dial(path) as sock:
            assert fill(sock, GET % b"large" * 1000) < 2_000_000
            answered = count[0]
            assert answered < 4
            assert bodies(talk(path, LAST)) == [b"<>"]
            assert count[0] == answered
            # Read, it gets the next.
            for _ in range(10):
                sock.recv(300_000, socket.MSG_WAITALL)
            assert count[0] > answered

    serving(tmp_path, large(count), client)


def test_who_does_not_read_in_time_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 0.05)
    count = [0]

    def client(path: Path) -> None:
        with dial(path) as sock:
            sock.sendall(GET % b"large" * 3)
            until_cut(sock)

    assert serving(tmp_path, large(count), client).count() == 0


def until_cut(sock: socket.socket) -> None:
    """Sends one byte after the other until the other side is gone."""
    with pytest.raises(OSError):
        while True:
            sock.send(b"G")
            threading.Event().wait(0.01)


def test_answers_that_nobody_reads_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "UNREAD_BYTES", 150_000)
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 1000.0)
    count = [0]

    def client(path: Path) -> None:
        with dial(path) as first, dial(path) as second, dial(path) as third:
            for sock in (first, second):
                sock.sendall(GET % b"large" * 3)
            third.sendall(GET % b"large" * 9)
            until_cut(first)

    serving(tmp_path, large(count), client)


def test_a_kept_connection_is_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.05)

    def client(path: Path) -> None:
        assert bodies(talk(path, GET % b"name")) == [b"<>"]
        assert bodies(talk(path, GET % b"name", b"GET /name HT")) == [b"<>"]

    serving(tmp_path, ROUTES, client)


def test_time_limits_are_for_clients_not_for_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the limit for the first head nor that between two requests cuts off who is served, or was."""
    monkeypatch.setattr(admission, "FIRST_SECONDS", 0.05)

    async def long(call: Call) -> Response:
        await asyncio.sleep(0.2)
        return await name(call)

    def client(path: Path) -> None:
        with dial(path) as sock:
            for wait in (1000.0, 0.05):
                monkeypatch.setattr(connection, "IDLE_SECONDS", wait)
                sock.sendall(GET % b"name" + GET % b"long")
                answer = b""
                while answer.count(b"<>") < 2:
                    answer += sock.recv(1 << 16)

    serving(tmp_path, {**ROUTES, "/long": {"GET": handler(long)}}, client)


def test_who_is_denied_is_hung_up_on(tmp_path: Path) -> None:
    async def deny(_: Call) -> Response:
        raise Denied("no")

    def client(path: Path) -> None:
        answer = talk(path, GET % b"deny" + GET % b"name")
        assert (answer.count(b"HTTP/1.1"), answer[:13]) == (1, b"HTTP/1.1 403 ")

    serving(tmp_path, {**ROUTES, "/deny": {"GET": handler(deny)}}, client)


def test_what_comes_behind_a_slow_request_waits_outside(tmp_path: Path) -> None:
    go = threading.Event()

    async def later(call: Call) -> Response:
        await asyncio.to_thread(go.wait)
        return await name(call)

    def client(path: Path) -> None:
        with dial(path) as sock:
            sock.sendall(GET % b"later")
            request = GET % b"name"
            sent = fill(sock, request * 1000)
            assert sent < 2_000_000
            go.set()
            thread = threading.Thread(target=sock.sendall, args=(request[sent % len(request) :] + LAST,))
            thread.start()
            assert len(bodies(rest(sock))) == 1 + sent // len(request) + 1 + 1
            thread.join()

    serving(tmp_path, {**ROUTES, "/later": {"GET": handler(later)}}, client)


class Draining:
    """Clients of a door that is drained while the first one's request is under way."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.socks: list[socket.socket] = []
        self.path = Path()

    async def wait(self, call: Call) -> Response:
        self.begun.set()
        await asyncio.to_thread(self.go.wait)
        return await name(call)

    @property
    def routes(self) -> Routes:
        return {**ROUTES, "/wait": {"GET": handler(self.wait)}}

    def client(self, path: Path) -> None:
        self.path, self.socks = path, [dial(path) for _ in range(3)]
        self.socks[0].sendall(GET % b"wait")
        assert self.begun.wait(20)
        self.socks[1].sendall(GET % b"name")
        assert bodies(self.socks[1].recv(1 << 16)) == [b"<>"]


def test_stopping_lets_requests_under_way_end(tmp_path: Path) -> None:
    draining = Draining()

    async def after(door: Front) -> None:
        task = asyncio.create_task(door.drain())
        await asyncio.sleep(0)
        # Idle ones end at once, the one under way goes on.
        assert [await asyncio.to_thread(rest, sock) for sock in draining.socks[1:]] == [b"", b""]
        assert door.count() == 1
        # Who comes now waits for the next process that listens there.
        draining.socks.append(dial(draining.path))
        draining.socks[-1].sendall(LAST)
        draining.go.set()
        await task

    assert serving(tmp_path, draining.routes, draining.client, after).count() == 0
    answer = rest(draining.socks[0])
    assert (bodies(answer), b"Connection: close" in answer) == ([b"<>"], True)
    assert rest(draining.socks[-1]) == b""
    for sock in draining.socks:
        sock.close()


def test_stopping_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "DRAIN_SECONDS", 0.05)
    draining = Draining()

    async def after(door: Front) -> None:
        await door.drain()
        draining.go.set()

    assert serving(tmp_path, draining.routes, draining.client, after).count() == 0
    for sock in draining.socks:
        assert rest(sock) == b""
        sock.close()


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
