"""The TLS transport and a loopback server that it may believe."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from agent.core.config import Pin
from agent.deadline import Deadline
from agent.transport.stdlib import Answer, Peer, StdlibTransport
from tests.support.certificates import NOW, Identity, make
from tests.support.fake_tas import FakeTas

LONG = 30.0
ROOT = make("root", authority=True)
INTERMEDIATE = make("intermediate", ROOT, authority=True)
SERVER = make("server", INTERMEDIATE)
STRANGER = make("stranger")


def ask(
    tas: FakeTas,
    pins: tuple[Pin, ...],
    *,
    url: str = "",
    authorities: bytes = b"",
    at: datetime = NOW,
    seconds: float = LONG,
    max_bytes: int = 4096,
    path: str = "/version",
) -> Answer:
    transport = StdlibTransport(Peer(url or tas.url, pins, lambda: at, authorities))
    return transport.request(
        "GET", path, headers={"X-API-KEY": "identifier"}, body=b"", max_bytes=max_bytes, deadline=Deadline(seconds, "t")
    )


def serving(tmp_path: Path, identity: Identity) -> FakeTas:
    return FakeTas(identity.chain_file(tmp_path / "server.pem"))


@pytest.fixture
def tas(tmp_path: Path) -> Iterator[FakeTas]:
    with serving(tmp_path, SERVER) as running:
        yield running


class Acting(Deadline):
    """A server in the client's own thread: whoever has connected when time is looked at meets ``act`` and is dropped."""

    def __init__(self, server: socket.socket, act: Callable[[socket.socket], None]) -> None:
        super().__init__(LONG, "t")
        self._server = server
        self._act = act
        self._server.setblocking(False)

    def remaining(self) -> float:
        try:
            connection, _ = self._server.accept()
        except BlockingIOError:
            return super().remaining()
        with connection:
            self._act(connection)
        return super().remaining()
