"""Each scripted fault, as a client of the mounted tree meets it, and the control socket."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from snp import abi
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse
DATA = bytes(range(64))
REPOSITORY = Path(__file__).resolve().parents[2]
FOREVER = 100_000
"""Seconds of a stall that only the control socket, or the end of the simulator, can cut short."""


@pytest.fixture
def entry(simulator: Simulator) -> Iterator[Path]:
    path = simulator.mount / "entry"
    path.mkdir()
    (path / "inblob").write_bytes(DATA)
    yield path
    simulator.clear()
    path.rmdir()


def raw_read(path: Path) -> int:
    """read(2) without Python's own retry after EINTR: the errno, 0 for success."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(4096)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return ctypes.get_errno() if libc.read(descriptor, buffer, len(buffer)) < 0 else 0
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", ["EBUSY", "EINTR", "EINVAL", "ETIMEDOUT", "EIO"])
def test_errnos_then_a_report(simulator: Simulator, entry: Path, name: str) -> None:
    simulator.fault(f"{name.lower()}:2")
    number = getattr(errno, name)
    assert [raw_read(entry / "outblob") for _ in range(3)] == [number, number, 0]
    assert (entry / "generation").read_text() == "1\n"


def test_a_fault_may_hit_the_auxblob_first(simulator: Simulator, entry: Path) -> None:
    simulator.fault("eio:1")
    assert [raw_read(entry / "auxblob"), raw_read(entry / "outblob")] == [errno.EIO, 0]


def test_generation_race(simulator: Simulator, entry: Path) -> None:
    simulator.fault("generation-race:1")
    assert (entry / "generation").read_text() == "1\n"
    (entry / "outblob").read_bytes()
    assert (entry / "generation").read_text() == "2\n"
    (entry / "outblob").read_bytes()
    assert (entry / "generation").read_text() == "2\n"


def test_short_read(simulator: Simulator, entry: Path) -> None:
    simulator.fault("short-read:1:1183")
    assert len((entry / "outblob").read_bytes()) == 1183
    (entry / "inblob").write_bytes(DATA)
    assert len((entry / "outblob").read_bytes()) == 1184


def test_no_certs(simulator: Simulator, entry: Path) -> None:
    simulator.fault("no-certs")
    assert (entry / "auxblob").read_bytes() == b""
    assert len((entry / "outblob").read_bytes()) == 1184


def test_debug(simulator: Simulator, entry: Path) -> None:
    simulator.fault("debug:1")
    seen = []
    for _ in range(2):
        (entry / "inblob").write_bytes(DATA)
        seen.append(abi.parse((entry / "outblob").read_bytes()).fields()["policy_bits"]["debug"])
    assert seen == [True, False]


def test_throttle_stalls_the_whole_machine(simulator: Simulator, entry: Path) -> None:
    simulator.fault(f"throttle:10:{FOREVER}")
    other = simulator.mount / "other"
    other.mkdir()
    (other / "inblob").write_bytes(DATA)
    for _ in range(10):
        (entry / "inblob").write_bytes(DATA)
        (entry / "outblob").read_bytes()
    done: list[str] = []
    stalled = threading.Thread(target=lambda: done.append(str(len((other / "outblob").read_bytes()))))
    stalled.start()
    waiting = threading.Thread(target=lambda: done.append((entry / "generation").read_text()))
    waiting.start()
    # Both hang: the first in the firmware, the second on the driver's lock. Only clearing the faults frees them.
    stalled.join(0.3)
    assert stalled.is_alive()
    while stalled.is_alive() or waiting.is_alive():
        simulator.clear()
        stalled.join(0.05)
        waiting.join(0.05)
    assert sorted(done) == ["11\n", "1184"]
    other.rmdir()


def test_a_stall_does_not_hold_up_the_end(tmp_path: Path, pki_state: Path) -> None:
    with running_simulator("tdx", tmp_path, pki_state, "--fault", f"throttle:1:{FOREVER}") as running:
        path = running.mount / "e"
        path.mkdir()
        argv = ["/bin/sh", "-c", "for i in 1 2; do head -c 64 /dev/zero >inblob; cat outblob >/dev/null; echo $i; done"]
        with subprocess.Popen(argv, cwd=path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"1\n"
            assert running.stop() == 0
            client.kill()


def test_faults_from_the_command_line(tmp_path: Path, pki_state: Path) -> None:
    with running_simulator("tdx", tmp_path, pki_state, "--fault", "ebusy:1", "--fault", "short-read:1:9") as running:
        path = running.mount / "e"
        path.mkdir()
        (path / "inblob").write_bytes(DATA)
        assert raw_read(path / "outblob") == errno.EBUSY
        assert len((path / "outblob").read_bytes()) == 9


def control(simulator: Simulator, *words: str) -> tuple[int, str]:
    argv = [sys.executable, "-m", "sim.control", str(simulator.control), *words]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_control_socket(simulator: Simulator, entry: Path) -> None:
    assert stat.S_IMODE(simulator.control.stat().st_mode) == 0o600
    assert control(simulator, "fault", "ebusy:2") == (0, "ok\n")
    assert raw_read(entry / "outblob") == errno.EBUSY
    assert control(simulator, "faults") == (0, "ok ebusy:1\n")
    status, text = control(simulator, "fault", "ebusy:none")
    assert (status, text) == (1, "error fault 'ebusy:none': COUNT and VALUE are numbers\n")
    assert control(simulator, "clear") == (0, "ok\n")
    assert control(simulator, "faults") == (0, "ok\n")


def test_control_without_simulator(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "sim.control", str(tmp_path / "sock"), "faults"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 69
    assert "No such file" in done.stderr
