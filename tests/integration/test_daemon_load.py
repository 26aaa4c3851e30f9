"""Many, slow, broken and greedy clients: none of them keeps the others from being served."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.daemon.admission import MAX_DENIED, MAX_EACH
from tests.support.daemon import GROUP, MEMBER, STRANGER, Daemon, Reply, as_user, dial, open_folder, running_daemon
from tests.support.fresh import until_waiting
from tests.support.simulator import Simulator, running_simulator
from tests.support.waiting import awaited

pytestmark = pytest.mark.fuse

HOLD = """
import socket, sys, time
socks = []
for _ in range(int(sys.argv[2])):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(sys.argv[1])
    try:
        sock.sendall(sys.argv[3].encode())
    except OSError:
        pass  # turned away already: it had its share
    socks.append(sock)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    with open_folder() as folder, running_daemon(simulator, folder) as running:
        yield running


@pytest.fixture
def stalled(simulator: Simulator) -> Iterator[Callable[[], None]]:
    """From the next report on the hardware stalls, until the test calls this (or ends)."""
    simulator.fault("throttle:1:600")
    yield simulator.clear
    simulator.clear()


def ask(daemon: Daemon, index: int) -> Reply:
    return daemon.challenge(nonce=(b"nonce of %08d" % index).hex(), context=str(index))


def test_many_nonces_share_few_quotes(daemon: Daemon, stalled: Callable[[], None]) -> None:
    count, before = 60, daemon.status()["challenges"]["batches"]
    with ThreadPoolExecutor(count) as threads:
        first = threads.submit(ask, daemon, 0)
        until_waiting(daemon, 1)
        rest = [threads.submit(ask, daemon, index) for index in range(1, count)]
        until_waiting(daemon, count)
        stalled()
        bundles = [future.result().body for future in (first, *rest)]
    roots, places = set(), set()
    for index, bundle in enumerate(bundles):
        fresh = daemon.verify(bundle, b"", nonce=b"nonce of %08d" % index, context=str(index)).bundle.fresh
        assert fresh
        roots.add(fresh.root)
        places.add((fresh.root, fresh.index))
    assert len(places) == count
    assert len(roots) == daemon.status()["challenges"]["batches"] - before == 2


def test_an_answer_does_not_verify_in_anothers_place(daemon: Daemon) -> None:
    bundle = json.loads(ask(daemon, 1).body)
    other = json.loads(ask(daemon, 2).body)
    bundle["fresh"], bundle["context"] = other["fresh"], other["context"]
    mixed = json.dumps(bundle, separators=(",", ":"), sort_keys=True).encode()
    with pytest.raises(Exception, match=r"signature|REPORT_DATA"):
        daemon.verify(mixed, b"")


def hold(daemon: Daemon, count: int, words: str, user: list[str]) -> subprocess.Popen[bytes]:
    """A process of ``user`` with so many open connections that said ``words`` and no more."""
    argv = [*user, sys.executable, "-I", "-c", HOLD, str(daemon.socket), str(count), words]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    return process


HALVES = [
    "",
    "POST /v1/si",
    "POST /v1/sign HTTP/1.1\r\nHost: a\r\n",
    "POST /v1/sign HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf",
    "POST /v1/sign HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf",
    'POST /v1/challenge HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"no',
]


@pytest.mark.parametrize("words", HALVES, ids=["silent", "line", "head", "body", "chunk", "json"])
@pytest.mark.parametrize("ending", [signal.SIGKILL, None])
def test_half_requests_and_killed_clients_disturb_nobody(
    daemon: Daemon, words: str, ending: signal.Signals | None
) -> None:
    with hold(daemon, 40, words, as_user(MEMBER, GROUP)) as process:
        daemon.verify(daemon.post("/v1/sign", b"x").body, b"x")
        if ending:
            process.kill()
        process.communicate()
    daemon.verify(daemon.post("/v1/sign", b"x").body, b"x")


@pytest.mark.parametrize(
    ("user", "limit"), [(as_user(MEMBER, GROUP), MAX_EACH), (as_user(STRANGER), MAX_DENIED)], ids=["member", "stranger"]
)
def test_nobody_holds_more_than_a_share(daemon: Daemon, user: list[str], limit: int) -> None:
    with hold(daemon, limit + 20, "", user) as process:
        assert daemon.status()["connections"] <= limit + 1
        assert daemon.post("/v1/sign", b"x").status == 200
        process.communicate()
    # What they held is free again for themselves.
    awaited(lambda: status_for(daemon, user), lambda status: status in (200, 403))


def status_for(daemon: Daemon, user: list[str]) -> int:
    """Of a request to sign; 0 where curl gets no answer."""
    try:
        return daemon.curl("-d", "x", "http://agent/v1/sign", user=user)[0]
    except subprocess.CalledProcessError:
        return 0


@pytest.mark.parametrize(
    "garbage",
    [b"\0" * 100, b"\x16\x03\x01\x02\0", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000, os.urandom(5000)],
    ids=["zeros", "tls", "no path", "version", "long line", "noise"],
)
def test_garbage(daemon: Daemon, garbage: bytes) -> None:
    with dial(daemon.socket) as sock:
        try:
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(1 << 16)
        except OSError:
            answer = b""
    assert answer == b"" or answer.split(b" ")[1] == b"400"
    assert daemon.post("/v1/sign", b"x").status == 200
    assert "Traceback" not in daemon.log


def test_pipelined_requests_are_answered_in_order(daemon: Daemon) -> None:
    head = b"POST /v1/sign?context=%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n%s\r\nx"
    with dial(daemon.socket) as sock:
        for index in range(5):
            sock.sendall(head % (index, b"Connection: close\r\n" if index == 4 else b""))
        answers = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    contexts = [part[:1] for part in answers.split(b'"context":"')[1:]]
    assert contexts == [b"0", b"1", b"2", b"3", b"4"]


@pytest.fixture
def small(simulator: Simulator) -> Iterator[Daemon]:
    """Two challenges a quote: two may wait of one user, four over all."""
    with open_folder() as folder, running_daemon(simulator, folder, challenge_batch_max=2) as running:
        assert running.post("/v1/sign", b"x").status == 200
        yield running


def test_over_budget(small: Daemon, stalled: Callable[[], None]) -> None:
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(ask, small, index) for index in range(2)]
        until_waiting(small, 2)
        reply = ask(small, 3)
        assert (reply.status, reply.json["code"]) == (429, "server.budget")
        assert int(reply.headers["Retry-After"]) >= 1
        # Another user has a share of its own, and signatures cost no quote.
        assert small.post("/v1/sign", b"x").status == 200
        other = ["curl", "-sS", "--unix-socket", str(small.socket), "--json", '{"nonce":"%s"}' % ("00" * 16)]
        with subprocess.Popen(
            [*as_user(MEMBER, GROUP), *other, "http://agent/v1/challenge"], stdout=subprocess.PIPE
        ) as process:
            until_waiting(small, 3)
            stalled()
            bundle, _ = process.communicate()
        small.verify(bundle, b"", nonce=bytes(16))
        assert [future.result().status for future in futures] == [200, 200]


def test_who_leaves_gives_its_place_back(small: Daemon, stalled: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(ask, small, 0)
        until_waiting(small, 1)
        body = b'{"nonce":"%s"}' % (b"00" * 16)
        head = b"POST /v1/challenge HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        with dial(small.socket) as sock:
            sock.sendall(head % len(body) + body)
            until_waiting(small, 2)
        until_waiting(small, 1)
        stalled()
        assert first.result().status == 200


def test_trouble_with_the_hardware_is_said_at_once(simulator: Simulator) -> None:
    simulator.fault("eio:*")
    try:
        with open_folder() as folder, running_daemon(simulator, folder) as daemon:
            reply = daemon.post("/v1/sign", b"x")
            assert (reply.status, reply.json["code"].partition(".")[0]) == (503, "firmware")
            assert daemon.request("GET", "/v1/keys").status == 503
            status = daemon.status()
            assert (status["ready"], status["trouble"]["code"]) == (False, reply.json["code"])
            simulator.clear()
            awaited(daemon.status, lambda status: status["ready"])
            daemon.verify(daemon.post("/v1/sign", b"x").body, b"x")
    finally:
        simulator.clear()
