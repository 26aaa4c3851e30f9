"""The daemon and the service as processes: start and memory."""

from __future__ import annotations

import copy
import re
import statistics
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from bench.figure import Figure
from sim import demo_chain
from sim.demo_world import BIN, World

SECONDS = 2.0
STARTS = 7


def begin(world: World) -> list[Figure]:
    """Simulator and service, as in the demo. No figure."""
    demo_chain.start_simulator(world)
    demo_chain.start_tas(world)
    demo_chain.enrol(world)
    return []


def start_and_memory(world: World) -> list[Figure]:
    """From exec to READY of the whole daemon, and what its processes hold (Pss: shared pages counted once)."""
    seconds = [_started(world) for _ in range(STARTS)]
    world.start("daemon", BIN / "tee-agent", "daemon", "--config", world.config)
    demo_chain.sign(world)
    sizes = [_pss(pid) for pid in _daemon_processes(world)]
    return [
        Figure(
            "daemon: start to READY",
            statistics.median(seconds),
            "s",
            0.5,
            False,
            "none",
            f"{len(sizes)} processes, one key; {STARTS} starts, slowest {max(seconds):.2f}",
        ),
        Figure(
            "daemon: memory of all processes", sum(sizes), "MiB", 96, False, "none", "Pss, MiB each: " + _list(sizes)
        ),
    ]


def _started(world: World) -> float:
    """Seconds of one start; the daemon is stopped again."""
    with ExitStack() as stack:
        one = copy.copy(world)
        one.stack = stack
        begun = time.perf_counter()
        one.start("daemon", BIN / "tee-agent", "daemon", "--config", world.config)
        return time.perf_counter() - begun


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


def openssl_rate() -> float:
    """Signatures per second of `openssl speed ed25519`."""
    words = ("openssl", "speed", "-seconds", str(int(SECONDS)), "ed25519")
    text = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    return float(text.strip().splitlines()[-1].split()[-2])
