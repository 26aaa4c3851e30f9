"""Hardware-fresh challenges a second, from a source that gives a quote each second and no more.

Client and daemon share the machine's cores: what the client takes, every proof and signature verified, is not taken
off. Its processes' and the signer's shares of a core stand in the detail.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.figure import Figure
from tests.support.daemon import Daemon, open_folder, running_daemon
from tests.support.simulator import running_simulator

PERIOD = 1.0
WARM, SECONDS = 8.0, 12.0
USERS = tuple(range(64301, 64331))
EACH = 150
"""Connections of one user."""


@dataclass(frozen=True, slots=True)
class Load:
    """``connections`` over all, ``batch`` challenges in a request, from ``processes`` clients, each a user."""

    connections: int
    batch: int
    processes: int


def fresh() -> list[Figure]:
    """challenges with hardware evidence made after they came, the source held at one quote a second"""
    return [
        *_figures("fresh challenges, 100 a request", 5000, Load(64, 100, 2), "rate:1:1"),
        *_figures("fresh challenges, one a request", 1500, Load(1800, 1, 12), "rate:1:1"),
        *_figures("the same, each quote takes 1 s", None, Load(64, 100, 2), "throttle:1:1"),
    ]


def _figures(name: str, bar: float | None, load: Load, source: str) -> list[Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="tee-agent-bench-") as state,
        open_folder() as folder,
        running_simulator("snp", folder, Path(state)) as simulator,
        running_daemon(simulator, folder, allow_users=[str(uid) for uid in USERS]) as daemon,
    ):
        daemon.post("/v1/sign", b"x")
        simulator.fault(source)
        return _measured(name, bar, load, daemon)


def _measured(name: str, bar: float | None, load: Load, daemon: Daemon) -> list[Figure]:
    signer, begun, before = daemon.role("signer"), time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = _cpu(signer)
    clients = [_client(daemon, uid, load) for uid in USERS[: load.processes]]
    said = [client.communicate()[0] for client in clients]
    spent, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = (_cpu(signer) - ours) / spent
    theirs = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / spent
    found = [json.loads(each) for each in said]
    rate = sum(each["answers"] / each["seconds"] for each in found)
    waits = sorted(wait for each in found for wait in each["waits"])
    detail = (
        f"{load.connections} connections; signer {ours:.2f} of a core, clients {theirs:.2f}; "
        f"median wait {waits[len(waits) // 2]:.2f} s, {_rss(signer):.0f} MiB"
    )
    late = waits[int(len(waits) * 0.99)] / PERIOD
    return [
        Figure(name, rate, "1/s", bar, True, "none", detail),
        Figure(f"{name}: wait, p99", late, "quotes", 2.0 if bar else None, False, "none", f"longest {waits[-1]:.2f} s"),
    ]


def _client(daemon: Daemon, uid: int, load: Load) -> subprocess.Popen[bytes]:
    share = load.connections // load.processes
    words = (daemon.socket, daemon.simulator.root_pem, uid, share, load.batch, WARM, SECONDS)
    argv = [sys.executable, "-m", "bench.asker", *map(str, words)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE)


def _cpu(pid: int) -> float:
    """Seconds that a process has had (proc(5) stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _rss(pid: int) -> float:
    """MiB at the most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
