"""Where the short way ends: keys that are no more, defects, a door that is drained; and what its answers look like."""

from __future__ import annotations

import asyncio
import socket
import weakref
from email.utils import formatdate
from pathlib import Path

import pytest

from agent.daemon.dispatch import as_bytes
from agent.daemon.front import Front
from agent.daemon.rota import Asking, Rota
from tests.support.doors import dial, rest, serving
from tests.support.turns import Memory, Signer, asked, post, undated
from tests.support.waiting import until


def test_draining_ends_after_the_answer(tmp_path: Path) -> None:
    signer = Signer()
    kept: list[socket.socket] = []

    def client(path: Path) -> None:
        sock = dial(path)
        kept.append(sock)
        assert asked(sock, post(b"one")) == b"long:one"
        assert asked(sock, post(b"two")) == b"short:two"

    async def after(door: Front) -> None:
        assert door.count() == 1

    serving(tmp_path, signer.routes(), client, after)
    with kept[0] as sock:
        assert rest(sock) == b""


def test_nobody_remembers_a_key_that_is_no_more(tmp_path: Path) -> None:
    """The closure that answers holds the private key: told to, every connection lets go of it at once."""
    signer = Signer()
    kept: list[socket.socket] = []

    def client(path: Path) -> None:
        for _ in range(2):
            sock = dial(path)
            kept.append(sock)
            assert asked(sock, post(b"one")) == b"long:one"
            assert asked(sock, post(b"two")) == b"short:two"

    async def after(door: Front) -> None:
        reference = weakref.ref(signer.memory)
        door.afresh()
        signer.memory = Memory()
        assert reference() is None
        for sock in kept:
            assert await asyncio.to_thread(asked, sock, post(b"six")) == b"long:six"
            sock.close()

    serving(tmp_path, signer.routes(), client, after)


def test_a_defect_of_the_short_way_is_told_and_nobody_waits_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signer = Signer(broken=True)

    def client(path: Path) -> None:
        with dial(path) as sock:
            for each in (b"one", b"two"):
                assert asked(sock, post(each)) == b"long:" + each

    serving(tmp_path, signer.routes(), client)
    assert "a request like the one before it failed" in caplog.text


def test_heads_follow_the_calendar_and_the_size() -> None:
    response = as_bytes(b"abc", "text/plain", Key="1")
    heads = response.heads()
    for second in (0, 1, 1, 86_400):
        for size in (3, 4, 3):
            date = formatdate(second, usegmt=True)
            assert f"\r\nDate: {date}\r\n" in heads(second, size).decode()
            assert f"\r\nContent-Length: {size}\r\n" in heads(second, size).decode()
    whole = response.encode(keep_alive=True)
    assert undated(whole.partition(b"\r\n\r\n")[0]) == undated(heads(0, 3).partition(b"\r\n\r\n")[0])


def test_who_waits_while_the_door_is_drained_is_told_that_it_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer, kept, held = Signer(), list[socket.socket](), list[Asking]()

    def client(path: Path) -> None:
        kept.append(dial(path))
        for _ in range(2):
            asked(kept[0], post(b"one"))

    async def after(door: Front) -> None:
        monkeypatch.setattr(Rota, "comes", lambda _, asking: held.append(asking))
        kept[0].sendall(post(b"six"))
        await until(lambda: bool(held))
        draining = asyncio.create_task(door.drain())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(held[0].turn)
        await draining
        with kept[0] as sock:
            head, _, data = rest(sock).partition(b"\r\n\r\n")
            assert b"\r\nConnection: close" in head
            assert data == b"long:six"

    serving(tmp_path, signer.routes(), client, after)
