"""SIGTERM to the real daemon: requests under way end with their answers, idle connections end at once."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import STOP_SECONDS, Daemon, dial, open_folder, running_daemon
from tests.support.fresh import until_waiting
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse

NONCE = bytes(range(16))


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


def rest(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def begin(daemon: Daemon) -> socket.socket:
    """A request to sign of which half is there, and its handler waits for the other."""
    sock = dial(daemon.socket)
    head = b"POST /v1/sign HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    sock.sendall(head)
    assert sock.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
    sock.sendall(b"ab")
    return sock


def challenge(daemon: Daemon) -> socket.socket:
    """A challenge that waits for the hardware."""
    sock = dial(daemon.socket)
    said = json.dumps({"nonce": NONCE.hex()}).encode()
    head = b"POST /v1/challenge HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    sock.sendall(head % len(said) + said)
    until_waiting(daemon, 1)
    return sock


def test_stopping_ends_what_is_under_way(simulator: Simulator) -> None:
    with open_folder() as folder, running_daemon(simulator, folder) as daemon:
        assert daemon.post("/v1/sign", b"x").status == 200
        simulator.fault("throttle:1:600")
        try:
            with dial(daemon.socket) as idle, begin(daemon) as half, challenge(daemon) as waiting:
                daemon.process.send_signal(signal.SIGTERM)
                assert rest(idle) == b""
                half.sendall(b"cd")
                head, _, bundle = rest(half).partition(b"\r\n\r\n")
                assert (head[:15], b"Connection: close" in head) == (b"HTTP/1.1 200 OK", True)
                daemon.verify(bundle, b"abcd")
                simulator.clear()
                head, _, bundle = rest(waiting).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 OK")
                daemon.verify(bundle, b"", nonce=NONCE)
        finally:
            simulator.clear()
        assert daemon.process.wait(STOP_SECONDS) == 0
        assert "Traceback" not in daemon.log
