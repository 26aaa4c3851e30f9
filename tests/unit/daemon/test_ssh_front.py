"""The bytes of ssh clients over real sockets: pieces, ends, time limits, and what is over the bounds."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.access import Rules
from agent.core.sshagent import KEPT, MAX_MESSAGE
from agent.core.sshwire import uint32
from agent.daemon import admission, sshfront
from agent.daemon.sshapi import Session
from agent.daemon.sshfront import Connection, SshFront
from tests.support import named, ssh
from tests.support.sshfronts import FAILURE, NONE, QUERY, serving, standing, talk, told
from tests.support.waiting import until


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


def test_who_is_not_permitted_is_told_once_and_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rules, "admits", lambda *_: False)
    serving(tmp_path, lambda path: _same(talk(path, ssh.listing() * 3), FAILURE))


def test_between_requests_there_is_more_time_than_within_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sshfront, "STALL_SECONDS", 1e3)
    monkeypatch.setattr(sshfront, "IDLE_SECONDS", 1e6)

    async def main(world: named.World) -> None:
        def left() -> float:
            timers = [one._timer.when() for one in found.open() if one._timer]
            return sum(timers) - asyncio.get_running_loop().time() if timers else 0.0

        async with standing(world, tmp_path) as found:
            with told(found.path, ssh.listing()) as client:
                await until(lambda: left() > 1e5)
                client.sendall(b"\0")
                await until(lambda: 0 < left() < 1e4)

    named.run(main)


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


def test_who_does_not_read_is_cut_off_at_the_end_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of the answers is little, and the client has said all that it wants: its place is not kept for it."""
    monkeypatch.setattr(sshfront, "STALL_SECONDS", 0.05)
    monkeypatch.setattr("agent.core.sshagent.identities", lambda _: ssh.framed(b"\x0c" + bytes(60_000)))

    opened: list[Connection] = []

    def kept(self: SshFront, connection: Connection, real: Callable[..., None] = SshFront.opened) -> None:
        opened.append(connection)
        real(self, connection)

    monkeypatch.setattr(SshFront, "opened", kept)

    async def main(world: named.World) -> None:
        async with standing(world, tmp_path) as found:
            for count in range(1, 8):  # of some of them, a few bytes find no room in the socket
                opened.clear()
                with told(found.path, ssh.listing() * count) as client:
                    client.shutdown(socket.SHUT_WR)
                    await until(lambda: bool(opened) and found.door.count() == 0)

    named.run(main)


@pytest.mark.parametrize("error", [ZeroDivisionError, TimeoutError])
def test_a_defect_of_ours_is_logged_and_ends_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    async def broken(self: Session, message: bytes) -> bytes:
        raise error

    monkeypatch.setattr(Session, "answer", broken)
    with caplog.at_level(logging.ERROR, "tee-agent.ssh"):
        serving(tmp_path, lambda path: _same(talk(path, ssh.listing()), b""))
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [error]


def test_places_are_shared_with_other_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_EACH", 3)

    def client(path: Path) -> None:
        held = [ssh_connected(path) for _ in range(3)]
        assert talk(path, ssh.listing(), end=True) == b""
        for sock in held:
            sock.close()
        while talk(path, ssh.listing(), end=True) != NONE:
            pass

    serving(tmp_path, client)


def ssh_connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(path))
    sock.sendall(QUERY)
    assert sock.recv(100)
    return sock
