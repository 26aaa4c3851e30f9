"""The daemon and the service as processes: start, memory, signatures over the socket, secrets over TLS."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from pathlib import Path

from bench.figure import Figure, paired
from sim import demo_chain
from sim.demo_world import BIN, StepFailed, World

SECONDS = 2.0
PAYLOAD = b"x" * 256


def begin(world: World) -> list[Figure]:
    """Simulator and service, as in the demo. No figure."""
    demo_chain.start_simulator(world)
    demo_chain.start_tas(world)
    demo_chain.enrol(world)
    return []


def start_and_memory(world: World) -> list[Figure]:
    """From exec to READY of the whole daemon, and what its processes hold (Pss: shared pages counted once)."""
    begun = time.perf_counter()
    world.start("daemon", BIN / "tee-agent", "daemon", "--config", world.config)
    seconds = time.perf_counter() - begun
    demo_chain.sign(world)
    sizes = [_pss(pid) for pid in _daemon_processes(world)]
    return [
        Figure("daemon: start to READY", seconds, "s", 0.5, False, "none", f"{len(sizes)} processes, one key"),
        Figure(
            "daemon: memory of all processes", sum(sizes), "MiB", 96, False, "none", "Pss, MiB each: " + _list(sizes)
        ),
    ]


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in sorted(values))


def _daemon_processes(world: World) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            words = (entry / "cmdline").read_bytes().split(b"\0") if (entry / "cmdline").exists() else []
            if b"daemon" in words and str(world.config).encode() in words:
                found.append(int(entry.name))
    return found


def _pss(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0


def signatures(world: World) -> list[Figure]:
    """One connection, one request in flight, a client that does nothing but write and read."""
    head = f"POST /v1/sign HTTP/1.1\r\nHost: agent\r\nContent-Length: {len(PAYLOAD)}\r\n\r\n".encode()
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(world.socket))
        ours, peer, ratio = paired(lambda: _sign_rate(link, head + PAYLOAD), openssl_rate, rounds=3)
    detail = f"{ours:.0f} bundles/s against {peer:.0f} signatures/s"
    return [Figure("signatures over the socket", ratio, "x", 0.4, True, "openssl speed ed25519", detail)]


def _sign_rate(link: socket.socket, request: bytes) -> float:
    count, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < SECONDS:
        link.sendall(request)
        _read_answer(link)
        count += 1
    return count / spent


def _read_answer(link: socket.socket) -> None:
    data = link.recv(65536)
    while b"\r\n\r\n" not in data:
        data += link.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    match = re.search(rb"Content-Length: (\d+)", head)
    if not head.startswith(b"HTTP/1.1 200") or match is None:
        raise StepFailed(f"no signature: {head[:200]!r}")
    missing = int(match[1]) - len(body)
    while missing > 0:
        missing -= len(link.recv(65536))


def openssl_rate() -> float:
    """Signatures per second of `openssl speed ed25519`."""
    words = ("openssl", "speed", "-seconds", str(int(SECONDS)), "ed25519")
    text = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    return float(text.strip().splitlines()[-1].split()[-2])
