"""How the daemon bears up: memory over 100,000 signatures, wake-ups while idle, others' latency during an attack.

The attack is that of tests/integration/test_hostile_clients.py, all of it at once and from root's share of the
connections: 150 that drip, 32 that sign without pause, and eight that send broken requests of every shape.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.figure import Figure
from tests.support import hostileclients as hostile
from tests.support.daemon import GROUP, MEMBER, ROLES, Daemon, as_user, open_folder, running_daemon
from tests.support.simulator import running_simulator

SIGNATURES, WARM = 100_000, 20_000
IDLE_SECONDS = 30.0
ATTACK_SECONDS = 10.0
REQUEST = b"POST /v1/sign HTTP/1.1\r\nHost: agent\r\nContent-Length: 256\r\n\r\n" + bytes(256)
DRIPPING, SIGNING = 150, 32


def endurance() -> list[Figure]:
    """memory over 100,000 signatures, wake-ups while idle, another user's latency during an attack"""
    with ExitStack() as stack:
        folder, state = stack.enter_context(open_folder()), stack.enter_context(open_folder())
        simulator = stack.enter_context(running_simulator("snp", folder, state))
        daemon = stack.enter_context(running_daemon(simulator, stack.enter_context(open_folder())))
        return [_growth(daemon), *_wake_ups(daemon), *_latency(daemon)]


def _growth(daemon: Daemon) -> Figure:
    """Resident memory of the signer, before and after."""
    pid = daemon.role("signer")
    _sign(daemon, WARM)
    before = hostile.Use.of(pid).memory
    seconds = _sign(daemon, SIGNATURES)
    grown = (hostile.Use.of(pid).memory - before) / (1 << 20)
    detail = f"{before / (1 << 20):.1f} MiB before, {SIGNATURES} bundles in {seconds:.0f} s"
    return Figure("signer: growth over 100,000", grown, "MiB", 1, False, "none", detail)


def _sign(daemon: Daemon, count: int) -> float:
    """So many bundles on one connection; how long it took."""
    begun = time.perf_counter()
    with hostile.link(daemon.socket) as link:
        for _ in range(count):
            link.sendall(REQUEST)
            _read_answer(link)
    return time.perf_counter() - begun


def _read_answer(link: socket.socket) -> None:
    data = link.recv(1 << 16)
    while b"\r\n\r\n" not in data:
        data += link.recv(1 << 16)
    head, _, body = data.partition(b"\r\n\r\n")
    match = re.search(rb"(?i)content-length: (\d+)", head)
    if not head.startswith(b"HTTP/1.1 200") or match is None:
        raise RuntimeError(f"no signature: {head[:200]!r}")
    missing = int(match[1]) - len(body)
    while missing > 0:
        missing -= len(link.recv(missing))


def _wake_ups(daemon: Daemon) -> list[Figure]:
    """Of every process, while nobody asks anything; no watchdog is set here, so there is no reason for any."""
    pids = {"supervisor": daemon.process.pid, **{name: daemon.role(name) for name in ROLES}}
    pids |= {f"verifier of {pid}": pid for pid in _children(pids["signer"])}
    _until_quiet(pids)
    before = {name: _switches(pid) for name, pid in pids.items()}
    time.sleep(IDLE_SECONDS)
    woken = {name: _switches(pid) - before[name] for name, pid in pids.items()}
    detail = f"in {IDLE_SECONDS:.0f} s, no watchdog: " + ", ".join(
        f"{name.split()[0]} {n}" for name, n in woken.items()
    )
    return [Figure("daemon: idle wake-ups", sum(woken.values()), "", 0, False, "none", detail)]


def _until_quiet(pids: Mapping[str, int]) -> None:
    """The last counts of the signatures before are written within seconds."""
    end = time.monotonic() + 15
    while time.monotonic() < end:
        before = sum(map(_switches, pids.values()))
        time.sleep(3)
        if sum(map(_switches, pids.values())) == before:
            return


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _switches(pid: int) -> int:
    """How often threads of a process went to sleep of themselves: each time they had been woken."""
    texts = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status"))
    return sum(int(text.split("voluntary_ctxt_switches:")[1].split()[0]) for text in texts)


def _latency(daemon: Daemon) -> list[Figure]:
    """Another user's signatures on a kept and on new connections, without and during the attack."""
    calm = _watched(daemon)
    with _attack(daemon) as sent:
        hit = _watched(daemon)
    if hit.wrong or calm.wrong:
        raise RuntimeError(f"the other user was refused: {calm.wrong}, {hit.wrong}")
    detail = (
        f"slowest of {hit.count}, p99 {hit.p99 * 1000:.1f} ms; slowest without an attack {calm.slowest * 1000:.1f} ms"
    )
    detail += f"; {DRIPPING} drip, {SIGNING} sign, {len(sent)} broken requests"
    return [Figure("another user during an attack", hit.slowest * 1000, "ms", 100, False, "none", detail)]


def _watched(daemon: Daemon) -> hostile.Victim:
    with hostile.victim(daemon, as_user(MEMBER, GROUP)) as found:
        time.sleep(ATTACK_SECONDS)
    return found


FLOOD = """
import re, socket, sys, threading
path, count, request = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
def one():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        while True:
            sock.sendall(request * 20)
            need = 20
            while need:
                need -= sock.recv(1 << 20).count(b"HTTP/1.1 ")
for _ in range(count):
    threading.Thread(target=one, daemon=True).start()
print("flooding", flush=True)
sys.stdin.read()
"""


@contextmanager
def _attack(daemon: Daemon) -> Iterator[list[str]]:
    """Until the end of the block; yields what was sent so far of broken requests."""
    sent: list[str] = []
    over = threading.Event()

    def broken() -> None:
        for name, _, _ in hostile.attacked(daemon.socket, 1, 10_000):
            sent.append(name)
            if over.is_set():
                break

    with ExitStack() as stack:
        for code, words, said in (
            (hostile.DRIP, ["body", str(DRIPPING)], b"dripping\n"),
            (FLOOD, [str(SIGNING), REQUEST.hex()], b"flooding\n"),
        ):
            argv = [sys.executable, "-I", "-c", code, str(daemon.socket), *words]
            process = stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            if not process.stdout or process.stdout.readline() != said:
                raise RuntimeError("the attack did not begin")
        thread = threading.Thread(target=broken)
        thread.start()
        try:
            yield sent
        finally:
            over.set()
            thread.join()
