"""The bytes of ssh clients over real sockets: pieces, ends, time limits, and what is over the bounds."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agent.core.access import Members, Rules
from agent.core.sshagent import KEPT, MAX_MESSAGE, SUCCESS
from agent.core.sshwire import uint32
from agent.daemon import admission, sockets, sshfront
from agent.daemon.admission import Admission
from agent.daemon.guard import Guard
from agent.daemon.journal import Reports
from agent.daemon.sshapi import Session, SshApi
from agent.daemon.sshfront import SshFront
from tests.support import named, ssh

ME = Members(frozenset({os.getuid()}))
FAILURE, NONE = ssh.framed(b"\5"), ssh.framed(b"\x0c" + bytes(4))
QUERY = ssh.extension(b"query")


def serving(folder: Path, client: Callable[[Path], None]) -> tuple[Admission, SshFront]:
    """``client`` in a thread, the agent without a key in this one."""
    found: list[tuple[Admission, SshFront]] = []

    async def main(world: named.World) -> None:
        guard = Guard(lambda: Rules(members=ME))
        door = Admission(guard)
        front = SshFront(door, SshApi(world.keys, guard, Reports()))
        listener = sockets.listen(folder, "ssh")
        task = asyncio.create_task(front.run(listener.sock))
        try:
            await asyncio.to_thread(client, listener.path)
        finally:
            task.cancel()
            await front.drain()
            await named.until(lambda: door.count() == 0)
            listener.sock.close()
            os.close(listener.lock)
        found.append((door, front))

    named.run(main)
    return found[0]


def talk(path: Path, *said: bytes, end: bool = False) -> bytes:
    """Everything that comes back before the other side hangs up; ``end``: we do first, on our side."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        found = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            for part in said:
                sock.sendall(part)
            if end:
                sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(1 << 16):
                found += part
        return found


def test_requests_in_pieces_and_many_at_once(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        stream = ssh.listing() + ssh.framed(b"\x11add") + QUERY[:9]
        pieces = [stream[at : at + 1] for at in range(len(stream))]
        assert talk(path, *pieces, end=True) == NONE + FAILURE
        assert talk(path, ssh.listing() * 500, end=True) == NONE * 500
        large = ssh.framed(b"\x0d" + bytes(KEPT)) + ssh.framed(b"\x0b" * MAX_MESSAGE)
        assert talk(path, large + ssh.listing(), end=True) == FAILURE * 2 + NONE
        assert talk(path, b"", end=True) == b""

    serving(tmp_path, client)


@pytest.mark.parametrize(
    "said", [uint32(MAX_MESSAGE + 1), b"\xff" * 4, uint32(0), b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n"]
)
def test_what_is_no_message_ends_the_connection(tmp_path: Path, said: bytes) -> None:
    def client(path: Path) -> None:
        assert talk(path, said) == b""
        assert talk(path, ssh.listing() + said) in (NONE, b"")

    serving(tmp_path, client)


@pytest.mark.parametrize("said", [b"", b"\0", b"\0\0\0\5", b"\0\0\0\5\x0b", uint32(MAX_MESSAGE) + bytes(KEPT)])
def test_a_first_request_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(admission, "FIRST_SECONDS", 0.05)
    serving(tmp_path, lambda path: _same(talk(path, said), b""))


def _same(found: bytes, expected: bytes) -> None:
    assert found == expected


@pytest.mark.parametrize("said", [b"\0", b"\0\0\0\5\x0b"])
def test_a_next_request_that_stops_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(sshfront, "STALL_SECONDS", 0.05)

    def client(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(path))
            for half in (b"", said):
                sock.sendall(ssh.listing() + half)
                assert sock.recv(100) == NONE
                if half:
                    with pytest.raises((ConnectionResetError, StopIteration)):
                        next(iter(lambda: sock.recv(100), b""))
            assert talk(path, ssh.listing(), said) in (NONE, b"")

    serving(tmp_path, client)


def test_a_message_may_not_drip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the message does not."""
    monkeypatch.setattr(sshfront, "STALL_SECONDS", 0.2)

    def client(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(path))
            sock.sendall(ssh.listing())
            assert sock.recv(100) == NONE
            sock.sendall(uint32(KEPT))
            with pytest.raises(OSError, match=r"Broken pipe|reset"):
                while True:
                    sock.send(b"x")
                    sock.settimeout(0.01)
                    try:
                        assert sock.recv(1) == b""
                        raise BrokenPipeError(32, "Broken pipe")
                    except TimeoutError:
                        sock.settimeout(20)

    serving(tmp_path, client)


def test_idle_connections_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sshfront, "IDLE_SECONDS", 0.05)
    serving(tmp_path, lambda path: _same(talk(path, ssh.listing()) or NONE, NONE))


def test_who_does_not_read_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sshfront, "STALL_SECONDS", 0.2)
    monkeypatch.setattr("agent.core.sshagent.identities", lambda _: ssh.framed(b"\x0c" + bytes(60_000)))

    def client(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(path))
            with pytest.raises(OSError, match=r"Broken pipe|reset"):
                while True:
                    sock.sendall(ssh.listing() * 100)
            assert talk(path, QUERY, end=True)

    serving(tmp_path, client)


def test_a_defect_of_ours_is_logged_and_ends_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: Session, message: bytes) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(Session, "answer", broken)
    with caplog.at_level(logging.ERROR, "tee-agent.ssh"):
        serving(tmp_path, lambda path: _same(talk(path, ssh.listing()), b""))
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


def test_one_request_at_a_time_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes meanwhile is not even read."""
    go_on, active, most = asyncio.Event(), 0, 0

    async def slow(self: Session, message: bytes) -> bytes:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await go_on.wait()
        active -= 1
        return ssh.framed(message)

    monkeypatch.setattr(Session, "answer", slow)
    sent = [ssh.framed(bytes([kind])) for kind in range(1, 9)]

    async def main(world: named.World) -> None:
        guard = Guard(lambda: Rules(members=ME))
        front = SshFront(Admission(guard), SshApi(world.keys, guard, Reports()))
        listener = sockets.listen(tmp_path, "ssh")
        task = asyncio.create_task(front.run(listener.sock))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(listener.path))
            for frame in sent:
                sock.sendall(frame)
                for _ in range(20):  # of the loop's turns: each reads what is there to be read
                    await asyncio.sleep(0)
            assert (active, most) == (1, 1)
            go_on.set()
            assert [one async for one in _frames(sock, len(sent))] == [frame[4:] for frame in sent]
        assert most == 1
        task.cancel()
        await front.drain()
        listener.sock.close()
        os.close(listener.lock)

    named.run(main)


async def _frames(sock: socket.socket, count: int) -> AsyncIterator[bytes]:
    sock.setblocking(False)
    data = b""
    for _ in range(count):
        while len(data) < 5:
            data += await asyncio.get_running_loop().sock_recv(sock, 100)
        yield data[4:5]
        data = data[5:]


def test_drain_lets_a_request_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests under way get their answer; idle clients are hung up on."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(self: Session, message: bytes) -> bytes:
        begun.set()
        await go_on.wait()
        return SUCCESS

    monkeypatch.setattr(Session, "answer", slow)

    async def main(world: named.World) -> None:
        guard = Guard(lambda: Rules(members=ME))
        front = SshFront(Admission(guard), SshApi(world.keys, guard, Reports()))
        listener = sockets.listen(tmp_path, "ssh")
        task = asyncio.create_task(front.run(listener.sock))
        idle = asyncio.create_task(asyncio.to_thread(talk, listener.path))
        busy = asyncio.create_task(asyncio.to_thread(talk, listener.path, ssh.listing() * 2))
        await begun.wait()
        await named.until(lambda: front.summary()["connections"] == 2)
        task.cancel()
        drained = asyncio.create_task(front.drain())
        assert await idle == b""
        assert not drained.done()
        go_on.set()
        await drained
        assert await busy == SUCCESS * 2
        listener.sock.close()
        os.close(listener.lock)

    named.run(main)


def test_drain_waits_no_longer_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sshfront, "DRAIN_SECONDS", 0.05)

    async def never(self: Session, message: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr(Session, "answer", never)

    async def main(world: named.World) -> None:
        guard = Guard(lambda: Rules(members=ME))
        front = SshFront(Admission(guard), SshApi(world.keys, guard, Reports()))
        listener = sockets.listen(tmp_path, "ssh")
        task = asyncio.create_task(front.run(listener.sock))
        busy = asyncio.create_task(asyncio.to_thread(talk, listener.path, ssh.listing()))
        await named.until(lambda: any(connection.task for connection in front._open))
        task.cancel()
        await front.drain()
        assert await busy == b""
        listener.sock.close()
        os.close(listener.lock)

    named.run(main)


def test_places_are_shared_with_other_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_EACH", 3)

    def client(path: Path) -> None:
        held = [ssh_connected(path) for _ in range(3)]
        assert talk(path, ssh.listing(), end=True) == b""
        for sock in held:
            sock.close()
        while talk(path, ssh.listing(), end=True) != NONE:
            pass

    door, _ = serving(tmp_path, client)
    assert door.count() == 0


def ssh_connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(path))
    sock.sendall(QUERY)
    assert sock.recv(100)
    return sock


def test_a_request_under_way_has_no_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the connection's own: evidence may take its time, and has its own limits."""
    go_on = asyncio.Event()

    async def slow(self: Session, message: bytes) -> bytes:
        await go_on.wait()
        return SUCCESS

    monkeypatch.setattr(Session, "answer", slow)

    async def main(world: named.World) -> None:
        guard = Guard(lambda: Rules(members=ME))
        door = Admission(guard)
        front = SshFront(door, SshApi(world.keys, guard, Reports()))
        listener = sockets.listen(tmp_path, "ssh")
        task = asyncio.create_task(front.run(listener.sock))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(listener.path))
            await named.until(lambda: bool(front._open))
            (connection,) = front._open
            for half in (QUERY[:3], QUERY[3:] + QUERY[:3], QUERY[3:]):
                sock.sendall(half)
                if len(half) > 3:
                    await named.until(lambda: connection.task is not None)
                    assert (connection._timer, connection._guest._first) == (None, None)
                    go_on.set()
                    await named.until(lambda: connection.task is None)
                    go_on.clear()
                await named.until(lambda: connection._timer is not None)
        task.cancel()
        await front.drain()
        listener.sock.close()
        os.close(listener.lock)

    named.run(main)
