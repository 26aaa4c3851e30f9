"""Ten thousand broken requests, slow clients, many at once: another user's signatures go on, nothing is left behind.

How fast the other user is served meanwhile, is `make bench`'s to say (bench/endurance.py); here, that it is served.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.support import hostile
from tests.support.daemon import GROUP, MEMBER, STOP_SECONDS, STRANGER, Daemon, as_user, open_folder, running_daemon
from tests.support.fresh import until_waiting
from tests.support.hostile import AMBIGUOUS, HEAD, SMUGGLED, STATUSES
from tests.support.hostileclients import DRIP, Use, ask, attacked, link, settled, statuses, victim
from tests.support.simulator import Simulator, running_simulator
from tests.support.waiting import awaited

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

SEED, REQUESTS = 20261122, 10_000
GENEROUS = 20.0
"""Seconds for the other user's answer: that it comes at all, on a busy machine."""
GROWTH = 32 << 20
"""Bytes that the signer may have more afterwards: what Python keeps for itself, and no more."""
OTHER, THIRD = MEMBER, MEMBER + 1


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    """Its folder is one that the signer's user may pass through."""
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@contextmanager
def serving(simulator: Simulator) -> Iterator[Daemon]:
    """A daemon with a named key, and no defect in its log."""
    with open_folder() as folder, running_daemon(simulator, folder) as running:
        made = json.dumps({"name": "hostile", "use": "jws"}).encode()
        assert running.post("/v1/keys", made, Content_Type="application/json").status == 201
        yield running
        assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    """One for all: that it outlives each attack is part of it."""
    with serving(simulator) as running:
        yield running


@pytest.fixture
def doomed(simulator: Simulator) -> Iterator[Daemon]:
    """One that the test stops."""
    with serving(simulator) as running:
        yield running


@contextmanager
def unharmed(daemon: Daemon) -> Iterator[None]:
    """Another user signs meanwhile; afterwards the signer holds what it held before."""
    for _ in range(200):  # what is made on first use is made
        ask(daemon.socket, hostile.valid(Random(1)))
    before = settled(daemon)
    with victim(daemon, as_user(OTHER, GROUP)) as other:
        yield
    after = settled(daemon)
    assert daemon.process.poll() is None
    assert other.count > 0
    assert other.wrong == ()
    assert other.slowest < GENEROUS
    assert after.memory - before.memory < GROWTH
    assert after.descriptors <= before.descriptors + 2


@pytest.mark.timeout(900)
def test_ten_thousand_broken_requests(daemon: Daemon) -> None:
    seen: Counter[tuple[str, int]] = Counter()
    with unharmed(daemon):
        for name, data, answer in attacked(daemon.socket, SEED, REQUESTS):
            found = statuses(answer)
            assert set(found) <= STATUSES, f"{name}: {found} to {data[:300]!r}"
            shape = name.split()[0]
            seen.update((shape, status) for status in found)
            if shape in ("noise", "smuggling"):
                assert not {200, 201} & set(found), f"{name}: {data[:300]!r}"
    assert seen["smuggling", 400] > REQUESTS // 20
    # The attack reaches what it is about: not all of it is refused at the door.
    assert {200, 400, 404} <= {status for _, status in seen}
    assert seen["wrong_types", 400] > REQUESTS // 40


@pytest.mark.parametrize("head", AMBIGUOUS, ids=repr)
def test_a_body_that_could_end_in_two_places_ends_the_connection(daemon: Daemon, head: bytes) -> None:
    for tail in (b"", b"0\r\n\r\n", b"hello", b"5\r\nhello\r\n0\r\n\r\n"):
        answer = ask(daemon.socket, b"POST /v1/sign " + HEAD + head + b"\r\n" + tail + SMUGGLED)
        assert statuses(answer) in ([400], []), f"{head!r} {tail!r}"


@pytest.mark.parametrize("what", ["head", "body", "chunk"])
def test_slow_senders(daemon: Daemon, what: str) -> None:
    """150 connections that say a byte every tenth of a second: who has no whole head after 10 s is cut off."""
    with unharmed(daemon):
        argv = [sys.executable, "-I", "-c", DRIP, str(daemon.socket), what, "150"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"dripping\n"
            ended = int(process.stdout.readline())
        assert ended == (150 if what == "head" else 0)


def test_clients_that_do_not_read(daemon: Daemon) -> None:
    """150 connections, each with thousands of requests, whose answers nobody takes."""
    request = b"POST /v1/sign " + HEAD + b"Content-Length: 1\r\n\r\nx"
    with unharmed(daemon), ExitStack() as stack:
        for _ in range(150):
            sock = stack.enter_context(link(daemon.socket))
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    sock.sendall(request * 100)
        held = Use.of(daemon.role("signer"))
        assert held.memory < 200 << 20


CROWD = """
import socket, sys
path, count = sys.argv[1], int(sys.argv[2])
socks = []
for _ in range(count):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.settimeout(120)
    socks.append(sock)
print("open", flush=True)
sys.stdin.readline()
for sock in socks:
    sock.sendall(b"POST /v1/sign HTTP/1.1\\r\\nHost: agent\\r\\nContent-Length: 1\\r\\nConnection: close\\r\\n\\r\\nx")
good = 0
for sock in socks:
    answer = b"".join(iter(lambda: sock.recv(65536), b""))
    good += answer.startswith(b"HTTP/1.1 200") and answer.endswith(b'"type":"tee-agent/bundle/v1"}')
print(good, flush=True)
"""


def test_five_hundred_at_once(daemon: Daemon) -> None:
    """500 connections of four users, all with a request: all are answered."""
    crowd = [(as_user(THIRD + number, GROUP), 125) for number in range(4)]
    with unharmed(daemon), ExitStack() as stack:
        running = []
        for user, count in crowd:
            argv = [*user, sys.executable, "-I", "-c", CROWD, str(daemon.socket), str(count)]
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            running.append((stack.enter_context(process), count))
        for process, _ in running:
            assert process.stdout
            assert process.stdout.readline() == b"open\n"
        assert daemon.status()["connections"] >= 500
        for process, _ in running:
            assert process.stdin
            process.stdin.write(b"\n")
            process.stdin.flush()
        for process, count in running:
            assert process.stdout
            assert int(process.stdout.readline()) == count


def test_clients_that_leave_at_once(daemon: Daemon) -> None:
    """2,000 that hang up before, in the middle of, or right behind what they say."""
    with unharmed(daemon):
        for number in range(2000):
            random = Random(f"{SEED}/leave/{number}")
            data = hostile.valid(random)
            with link(daemon.socket) as sock:
                try:
                    sock.sendall(data[: random.randrange(len(data) + 1)])
                    if number % 3 == 0:
                        sock.shutdown(random.choice([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR]))
                except OSError:
                    continue


def test_strangers_in_numbers_take_nobody_s_place(daemon: Daemon) -> None:
    argv = [*as_user(STRANGER), sys.executable, "-I", "-c", CROWD, str(daemon.socket), "300"]
    with unharmed(daemon), subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"open\n"
        assert daemon.status()["connections"] < 64
        process.kill()


def test_what_is_under_way_is_answered_when_it_is_stopped(doomed: Daemon, simulator: Simulator) -> None:
    """SIGTERM while a challenge waits for its quote, and while half of a body is there."""
    simulator.fault("throttle:1:600")
    try:
        with ThreadPoolExecutor(4) as threads, link(doomed.socket) as half:
            waiting = [threads.submit(doomed.challenge, nonce=f"{number:02d}" * 16) for number in range(3)]
            half.sendall(b"POST /v1/sign " + HEAD + b"Content-Length: 8\r\nConnection: close\r\n\r\nhalf")
            until_waiting(doomed, 3)
            doomed.process.send_signal(signal.SIGTERM)
            awaited(lambda: not doomed.socket.exists() or refused(doomed))
            simulator.clear()
            half.sendall(b"half")
            answer = b"".join(iter(lambda: half.recv(1 << 16), b""))
            replies = [future.result() for future in waiting]
    finally:
        simulator.clear()
    assert statuses(answer) == [200]
    assert [reply.status for reply in replies] == [200, 200, 200]
    for number, reply in enumerate(replies):
        doomed.verify(reply.body, b"", nonce=bytes.fromhex(f"{number:02d}" * 16))
    assert doomed.process.wait(STOP_SECONDS) == 0
    assert "Traceback" not in doomed.log, doomed.log


def refused(daemon: Daemon) -> bool:
    """Whether nobody answers new connections any more."""
    try:
        with link(daemon.socket) as sock:
            sock.settimeout(1)
            sock.sendall(b"GET /v1/openapi.json " + HEAD + b"\r\n")
            return not sock.recv(1)
    except OSError:
        return True
