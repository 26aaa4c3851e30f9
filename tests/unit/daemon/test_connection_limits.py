"""What a connection does not wait for, or not for ever: readers, the next request, clients when the process stops."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from agent.daemon import admission, connection, front
from agent.daemon.dispatch import Call, Routes, as_bytes
from agent.daemon.front import Front
from agent.daemon.web import HIGH_WATER, Response
from tests.support.connections import GET, LAST, ROUTES, bodies, fill, name, size
from tests.support.doors import dial, handler, rest, serving, talk


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
    # Long enough for a client on a busy machine to say its head in.
    monkeypatch.setattr(admission, "FIRST_SECONDS", 1.0)

    async def long(call: Call) -> Response:
        await asyncio.sleep(1.2)
        return await name(call)

    def client(path: Path) -> None:
        with dial(path) as sock:
            for wait in (1000.0, 0.05):
                monkeypatch.setattr(connection, "IDLE_SECONDS", wait)
                sock.sendall(GET % b"name" + GET % b"long")
                answer = b""
                while answer.count(b"<>") < 2:
                    part = sock.recv(1 << 16)
                    assert part, "cut off"
                    answer += part

    serving(tmp_path, {**ROUTES, "/long": {"GET": handler(long)}}, client)


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
        assert self.begun.wait(60)
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
