"""Frames between our own processes: a real socket, the server in this process, clients in threads."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.core.algorithm import ALGORITHMS
from agent.core.canonical import b64
from agent.core.errors import (
    DeadlineExceeded,
    Denied,
    FirmwareBusy,
    FormatError,
    Oversized,
    ProtocolError,
    TransportError,
    UsageError,
)
from agent.core.model import Evidence, Nonce, Tee
from agent.daemon import quoter, rpc, sockets
from agent.daemon.peers import Caller
from agent.daemon.quoter import Desk, permits
from agent.daemon.remote import RemoteQuoter, evidence_from, evidence_to
from agent.daemon.rpc import Service, call
from agent.deadline import Deadline
from tests.support.quotes import FakeQuotes


async def echo(params: dict[str, Any], caller: Caller) -> dict[str, Any]:
    return {"said": params, "uid": caller.uid}


async def busy(_params: dict[str, Any], _caller: Caller) -> dict[str, Any]:
    raise FirmwareBusy("later", errno=16, status=7, hint="wait", code="firmware.busy")


async def huge(_params: dict[str, Any], _caller: Caller) -> dict[str, Any]:
    return {"x": "y" * (rpc.MAX_ANSWER + 1)}


METHODS: dict[str, rpc.Handler] = {"echo": echo, "busy": busy, "huge": huge, "hidden": echo}


def serving(folder: Path, client: Callable[[Path], None], service: Service | None = None) -> None:
    """Run ``client`` in a thread while the service answers."""
    permitted = frozenset({"echo", "busy", "huge", "absent"})
    serves = service or Service(METHODS, lambda _: permitted)

    async def main() -> None:
        listener = sockets.listen(folder, "test")
        await serves.start(listener.sock)
        try:
            await asyncio.to_thread(client, listener.path)
        finally:
            await serves.stop()
            os.close(listener.lock)

    asyncio.run(main())


def in_time() -> Deadline:
    return Deadline(20, "test")


def test_calls(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        answer = call(path, "echo", {"a": [1, "ä"]}, deadline=in_time())
        assert answer == {"said": {"a": [1, "ä"]}, "uid": os.getuid()}
        assert call(path, rpc.PING, {}, deadline=in_time()) == {"pid": os.getpid()}

    serving(tmp_path, client)


def test_errors_come_through_as_themselves(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        with pytest.raises(FirmwareBusy) as caught:
            call(path, "busy", {}, deadline=in_time())
        error = caught.value
        assert (error.message, error.hint, error.errno, error.status) == ("later", "wait", 16, 7)
        with pytest.raises(Denied):
            call(path, "hidden", {}, deadline=in_time())
        with pytest.raises(UsageError):
            call(path, "absent", {}, deadline=in_time())
        with pytest.raises(ProtocolError):
            call(path, "huge", {}, deadline=in_time())

    serving(tmp_path, client)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (struct.pack(">I", rpc.MAX_REQUEST + 1), Oversized),
        (struct.pack(">I", 3) + b"{{{", FormatError),
        (struct.pack(">I", 2) + b"[]", FormatError),
        (struct.pack(">I", 2) + b"{}", FormatError),
        (struct.pack(">I", 27) + b'{"method":1,"params":"none"}'[:27], FormatError),
    ],
    ids=["long", "no json", "list", "empty", "types"],
)
def test_what_is_no_request(tmp_path: Path, raw: bytes, error: type[FormatError]) -> None:
    def client(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(raw)
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
        assert error.code.encode() in answer

    serving(tmp_path, client)


def test_who_may_nothing_is_hung_up_on(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        with pytest.raises((ProtocolError, TransportError)):
            call(path, "echo", {}, deadline=in_time())
        with pytest.raises((ProtocolError, TransportError)):
            call(path, rpc.PING, {}, deadline=in_time())

    serving(tmp_path, client, Service(METHODS, lambda _: frozenset()))


def test_silence_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "READ_SECONDS", 0.5)

    def client(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"\0\0")
            assert sock.recv(10) == b""

    serving(tmp_path, client)


def test_too_many_at_once_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MAX_CONNECTIONS", 2)

    def client(path: Path) -> None:
        held = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for sock in held:
            sock.connect(str(path))
        assert held[2].recv(10) == b""
        for sock in held:
            sock.close()

    serving(tmp_path, client)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(TransportError):
        call(tmp_path / "none.sock", "echo", {}, deadline=in_time())


def test_a_server_that_says_nothing(tmp_path: Path) -> None:
    listener = sockets.listen(tmp_path, "mute")
    with listener.sock, pytest.raises(DeadlineExceeded):
        call(listener.path, "echo", {}, deadline=Deadline(0.01, "test"))
    os.close(listener.lock)


@pytest.mark.parametrize(
    "said", [b"", b"\0\0", b"\0\0\0\5{}", b"\0\0\0\2[]", b"\0\0\0\2{}", b"\xff\xff\xff\xff", b"\0\0\0\1x"]
)
def test_a_server_that_speaks_otherwise(tmp_path: Path, said: bytes) -> None:
    listener = sockets.listen(tmp_path, "other")

    def serve() -> None:
        accepted, _ = listener.sock.accept()
        with accepted:
            accepted.recv(1000)
            accepted.sendall(said)

    thread = threading.Thread(target=serve)
    thread.start()
    with listener.sock, pytest.raises((ProtocolError, TransportError)):
        call(listener.path, "echo", {}, deadline=in_time())
    thread.join()
    os.close(listener.lock)


def test_evidence_both_ways() -> None:
    evidence = Evidence(Tee.TDX, b"\0\1quote", b"", "tdx_guest")
    assert evidence_from(evidence_to(evidence)) == evidence
    for broken in ({}, {**evidence_to(evidence), "tee": "x"}, {**evidence_to(evidence), "blob": "*"}, {"blob": 1}):
        with pytest.raises(ProtocolError):
            evidence_from(broken)


def caller(uid: int) -> Caller:
    return Caller(1, uid, uid, (), "")


def test_who_may_ask_the_quoter_for_what() -> None:
    may = permits(signer_uid=10, fetcher_uid=20)
    assert may(caller(0)) == quoter.ALL
    assert may(caller(10)) == {"signing_key", "challenge_batch", "announce", "derived_key"}
    assert may(caller(20)) == {"tas"}
    assert may(caller(30)) == frozenset()


def test_one_user_for_both_never_gets_the_services_form() -> None:
    assert "tas" not in permits(signer_uid=10, fetcher_uid=10)(caller(10))


SPKI = ALGORITHMS["Ed25519"].spki_prefix + bytes(32)
GOOD_KEY = {"algorithm": "Ed25519", "use": "bundle", "spki": b64(SPKI), "statement_digest": "00" * 64}


def test_the_desk_passes_fields_and_nothing_else(tmp_path: Path) -> None:
    quotes = FakeQuotes()
    desk = Desk(quotes, 30)

    def client(path: Path) -> None:
        remote = RemoteQuoter(path)
        remote.announce(b"key", deadline=in_time())
        nonce = Nonce("ab" * 32)
        evidence = remote.tas(nonce, b"key", deadline=in_time())
        remote.signing_key("Ed25519", "bundle", SPKI, bytes(64), deadline=in_time())
        remote.challenge_batch(3, bytes(64), deadline=in_time())
        remote.collect(bytes(16), deadline=in_time())
        assert evidence.auxblob == b"table"
        assert quotes.asked == [
            ("tas", nonce.text, b"key"),
            ("signing_key", "Ed25519", "bundle", SPKI, bytes(64)),
            ("challenge_batch", 3, bytes(64)),
            ("collect", bytes(16)),
        ]

    serving(tmp_path, client, Service(desk.methods(), lambda _: quoter.ALL | quoter.SIGNER))


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tas", {}),
        ("tas", {"nonce": "ab" * 32}),
        ("tas", {"nonce": "ab" * 32, "wrapping_key": ""}),
        ("tas", {"nonce": "AB" * 32, "wrapping_key": "QUJD"}),
        ("tas", {"nonce": "ab" * 32, "wrapping_key": "QUJD", "more": 1}),
        ("tas", {"nonce": "ab" * 32, "wrapping_key": "QQ" * 4000}),
        ("signing_key", {**GOOD_KEY, "algorithm": "RSA"}),
        ("signing_key", {**GOOD_KEY, "algorithm": "ECDSA-P256"}),
        ("signing_key", {**GOOD_KEY, "use": "any"}),
        ("signing_key", {**GOOD_KEY, "spki": b64(SPKI + bytes(1))}),
        ("signing_key", {**GOOD_KEY, "spki": b64(b"x" * 44)}),
        ("signing_key", {**GOOD_KEY, "statement_digest": "00"}),
        ("challenge_batch", {"tree_size": 0, "root": "00" * 64}),
        ("challenge_batch", {"tree_size": True, "root": "00" * 64}),
        ("challenge_batch", {"tree_size": 1, "root": "00" * 63}),
        ("collect", {"nonce": "00" * 15}),
        ("collect", {"nonce": "00" * 65}),
        ("collect", {"nonce": ["00"] * 32}),
        ("announce", {}),
        ("announce", {"wrapping_key": ""}),
        ("announce", {"wrapping_key": "QUJD", "nonce": "ab" * 32}),
        ("derived_key", {"context": "mine"}),
        ("derived_key", {"fields": []}),
    ],
    ids=str,
)
def test_the_desk_refuses(tmp_path: Path, method: str, params: dict[str, Any]) -> None:
    quotes = FakeQuotes()

    def client(path: Path) -> None:
        with pytest.raises(FormatError):
            call(path, method, params, deadline=in_time())
        assert quotes.asked == []

    serving(tmp_path, client, Service(Desk(quotes, 30).methods(), lambda _: quoter.ALL | quoter.SIGNER))
