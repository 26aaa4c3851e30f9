"""The quote generation service over a socket, as the host's: quotes that verify, refusals, faults, noise."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.errors import Conflict, PlatformError
from agent.core.model import ReportData
from agent.verify.evidence import verify_evidence
from sim import cli, cuse
from sim.faults import Faults, FaultyProvider, parse
from sim.keys import State
from sim.qe import DomainOptions, QuotingEnclave
from sim.qgs import REPORT_UNVERIFIED, SECONDS, Service
from sim.tdreport import TdxModule
from tdx import qgs
from tests.support.simulator import anchor

DATA = bytes(range(64))


class Client:
    """What libtdx_attest does on its socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rwb")

    def send(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()

    def receive(self) -> qgs.Response | None:
        """None where the service hangs up."""
        prefix = self._stream.read(qgs.PREFIX)
        if not prefix:
            return None
        return qgs.parse_response(self._stream.read(qgs.framed_size(prefix, qgs.MAX_RESPONSE)))

    def ask(self, report: bytes) -> qgs.Response | None:
        self.send(qgs.frame(qgs.Request(report).encode()))
        return self.receive()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class World:
    """A platform with its service; ``report()`` is what /dev/tdx_guest gives."""

    def __init__(self, state: Path, path: Path) -> None:
        self.path, self.faults = path, Faults()
        self.enclave = QuotingEnclave(State(state), DomainOptions(), datetime.now(UTC))
        self._module = TdxModule(State(state), self.enclave)
        self.service = Service(path, self._module, self.faults)

    def report(self) -> bytes:
        return FaultyProvider(self._module, self.faults).report(DATA, 0).outblob

    @contextmanager
    def client(self) -> Iterator[Client]:
        client = Client(self.path)
        try:
            yield client
        finally:
            client.close()


@pytest.fixture
def world(pki_state: Path, tmp_path: Path) -> Iterator[World]:
    made = World(pki_state, tmp_path / "qgs")
    try:
        yield made
    finally:
        made.service.close()
        assert not made.path.exists()


def test_quotes_verify(world: World) -> None:
    with world.client() as client:
        for _ in range(2):  # a connection may ask again
            response = client.ask(world.report())
            assert response is not None
            verified = verify_evidence(
                response.quote,
                world.enclave.endorsements(),
                at=datetime.now(UTC),
                anchors=[anchor(world.enclave.root)],
                report_data=ReportData(DATA),
            )
            assert verified.tcb_status == "UpToDate"


def test_a_foreign_report_is_refused(world: World) -> None:
    report = bytearray(world.report())
    report[128] ^= 1
    with world.client() as client:
        response = client.ask(bytes(report))
        assert response == qgs.Response(error_code=REPORT_UNVERIFIED)
        assert client.ask(world.report()) != response, "the connection goes on"


def test_faults(world: World) -> None:
    world.faults.add(parse("qgs-error"))
    world.faults.add(parse("qgs-silent"))
    with world.client() as client:
        assert client.ask(world.report()) == qgs.Response(error_code=qgs.UNEXPECTED)
        assert client.ask(world.report()) is None
    with world.client() as client:
        response = client.ask(world.report())
        assert response is not None
        assert response.quote


@pytest.mark.parametrize("noise", [b"\xff" * 8, b"\0\0\0\1x", b"\0"])
def test_noise_hurts_nobody_else(world: World, noise: bytes) -> None:
    with world.client() as noisy, world.client() as other:
        noisy.send(noise)
        response = other.ask(world.report())
        assert response is not None
        assert response.quote
        if len(noise) >= qgs.PREFIX:
            assert noisy.receive() is None


def test_several_at_once(world: World) -> None:
    report, got = world.report(), []

    def ask() -> None:
        with world.client() as client:
            got.append(client.ask(report))

    clients = [threading.Thread(target=ask) for _ in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(SECONDS)
    assert [bool(response and response.quote) for response in got] == [True] * 8


def test_a_stale_socket_is_replaced(world: World, pki_state: Path, tmp_path: Path) -> None:
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    World(pki_state, stale).service.close()


def test_a_kernel_without_vsock(pki_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> None:
        def bind(*_: object) -> None:
            raise OSError(number, "as the kernel says")

        monkeypatch.setattr(socket.socket, "bind", bind)

    module = TdxModule(State(pki_state), QuotingEnclave(State(pki_state), DomainOptions(), datetime.now(UTC)))
    monkeypatch.setattr(socket, "AF_VSOCK", socket.AF_UNIX)  # this machine may not have any
    refuse(errno.ENODEV)
    with pytest.raises(PlatformError, match="vsock port 4050") as caught:
        Service(qgs.PORT, module, Faults())
    assert (caught.value.exit_status, "vsock_loopback" in caught.value.hint) == (69, True)
    refuse(errno.EADDRINUSE)
    with pytest.raises(Conflict, match="somebody listens"):
        Service(qgs.PORT, module, Faults())


def test_the_command_line_without_cuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 69 and what to do, before any key is made; a mount point is no device's."""
    monkeypatch.setattr(cuse, "CHANNEL", tmp_path / "cuse")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    state = tmp_path / "state"
    words = ["--tee", "tdx", "--interface", "device", "--state", str(state)]
    assert cli.main(words) == 69
    said = capsys.readouterr().err
    assert "cuse is missing" in said
    assert "modprobe cuse" in said
    assert not state.exists()
    assert cli.main([*words, "--mount", str(tmp_path)]) == 64
    assert cli.main(["--tee", "snp", "--state", str(state)]) == 64
    assert "--mount" in capsys.readouterr().err
