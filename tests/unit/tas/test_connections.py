"""The guard between transport and protocol: it counts, it waits, it passes everything on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from aiohttp import web

from tas.connections import CHUNKED_BYTES, HEAD_BYTES, Connections


class Wire(asyncio.Transport):
    """A transport that only knows whether it was aborted, and whether it is being read."""

    def __init__(self, address: str = "192.0.2.1") -> None:
        super().__init__({"peername": (address, 50000)} if address else {})
        self.aborted = asyncio.Event()
        self.paused = False
        self.protocol: asyncio.BaseProtocol | None = None

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def abort(self) -> None:
        self.aborted.set()

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self.protocol
        return self.protocol


class Notes(asyncio.Protocol):
    """A protocol that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.told.append(data)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return True

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")


def connect(connections: Connections, address: str = "192.0.2.1") -> tuple[Wire, Notes, asyncio.Protocol]:
    wire, notes = Wire(address), Notes()
    guard = connections.guard(notes)
    wire.protocol = guard
    guard.connection_made(wire)
    return wire, notes, guard


def request(wire: Wire | None, length: int | None = None, *, body: bool = False) -> web.BaseRequest:
    """What aiohttp shows of a request whose head is there."""
    return cast("web.BaseRequest", SimpleNamespace(transport=wire, content_length=length, can_read_body=body))


def test_everything_is_passed_on() -> None:
    async def run() -> None:
        wire, notes, guard = connect(Connections(60))
        guard.data_received(b"x")
        guard.pause_writing()
        guard.resume_writing()
        assert guard.eof_received()
        guard.connection_lost(None)
        assert notes.told == ["made", b"x", "pause", "resume", "eof", "lost"]
        assert not wire.aborted.is_set()

    asyncio.run(run())


def test_silence_is_cut_off_and_a_request_is_not() -> None:
    async def run() -> None:
        connections = Connections(0)
        silent, busy, gone = connect(connections), connect(connections), connect(connections)
        connections.arrived(request(busy[0]))
        connections.arrived(request(None))
        gone[2].connection_lost(None)
        await silent[0].aborted.wait()
        assert not busy[0].aborted.is_set()
        assert not gone[0].aborted.is_set()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_one_too_many() -> None:
    async def run() -> None:
        connections = Connections(60, limit=2)
        first, _ = connect(connections), connect(connections)
        wire, notes, guard = connect(connections)
        assert wire.aborted.is_set()
        guard.data_received(b"x")
        assert guard.eof_received() is None
        guard.connection_lost(None)
        assert notes.told == []
        assert connect(connections)[0].aborted.is_set()
        first[2].connection_lost(None)
        assert not connect(connections)[0].aborted.is_set()

    asyncio.run(run())


def test_one_client_leaves_room_for_others() -> None:
    async def run() -> None:
        connections = Connections(60, limit=6, per_client=2)
        held = [connect(connections, address) for address in ("2001:db8::1", "2001:db8::2", "192.0.2.9")]
        assert not any(wire.aborted.is_set() for wire, _, _ in held)
        # One IPv6 /64 is one client, however many addresses it has.
        assert connect(connections, "2001:db8::ffff")[0].aborted.is_set()
        assert not connect(connections, "2001:db8:1::1")[0].aborted.is_set()
        held[0][2].connection_lost(None)
        assert not connect(connections, "2001:db8::ffff")[0].aborted.is_set()
        # The proxy beside us speaks for many; what has no address is one client.
        proxy = Connections(60, limit=6, per_client=2)
        assert not any(connect(proxy, address)[0].aborted.is_set() for address in ("127.0.0.1",) * 4)
        narrow = Connections(60, per_client=1)
        cut = [connect(narrow, address)[0].aborted.is_set() for address in ("", "", "::1", "::1")]
        assert cut == [False, True, False, False]

    asyncio.run(run())


def passed_on(notes: Notes) -> int:
    return sum(len(part) for part in notes.told if isinstance(part, bytes))


def test_what_is_sent_without_an_answer_is_bounded() -> None:
    """aiohttp 3.11 keeps every request that a client sends on, whether it reads answers or not."""

    async def run() -> None:
        connections = Connections(60)
        wire, notes, guard = connect(connections)
        for _ in range(10):
            guard.data_received(bytes(HEAD_BYTES // 3))
        assert passed_on(notes) == HEAD_BYTES
        assert wire.paused
        connections.arrived(request(wire))
        guard.data_received(bytes(2 * HEAD_BYTES))
        guard.data_received(b"x")
        assert passed_on(notes) == 2 * HEAD_BYTES
        assert wire.paused
        assert not wire.aborted.is_set()
        guard.connection_lost(None)

    asyncio.run(run())


def test_a_body_has_room_beside_that() -> None:
    async def run() -> None:
        connections = Connections(60)
        for length, body, room in ((5000, True, 5000), (None, True, CHUNKED_BYTES), (None, False, 0)):
            wire, notes, guard = connect(connections)
            guard.data_received(b"head")
            connections.arrived(request(wire, length, body=body))
            guard.data_received(bytes(CHUNKED_BYTES * 2))
            assert passed_on(notes) == 2 * HEAD_BYTES + room
            guard.connection_lost(None)

    asyncio.run(run())


def test_a_body_that_came_with_its_head_is_all_there() -> None:
    """One read of a TLS connection gives 256 KiB: the request that it begins with is not known yet."""
    data = bytes(range(256)) * 1000

    async def run() -> None:
        connections = Connections(60)
        wire, notes, guard = connect(connections)
        guard.data_received(data)
        paused = [wire.paused]
        connections.arrived(request(wire, len(data)))
        assert [*paused, wire.paused] == [True, False]
        guard.data_received(b"end")
        assert b"".join(part for part in notes.told if isinstance(part, bytes)) == data + b"end"
        guard.connection_lost(None)

    asyncio.run(run())


def test_a_connection_is_for_a_nonce_and_a_secret() -> None:
    async def run() -> None:
        connections = Connections(60)
        wire, _, guard = connect(connections)
        assert [connections.arrived(request(wire)) for _ in range(3)] == [True, False, False]
        assert not connections.arrived(request(None))
        guard.connection_lost(None)

    asyncio.run(run())
