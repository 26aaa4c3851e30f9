"""Many, slow, broken and greedy ssh clients: none of them keeps others from their signatures, nor HTTP from its own."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.core.keydoc import decode
from agent.core.sshagent import KEPT, MAX_MESSAGE
from agent.core.sshwire import PublicKey, uint32
from agent.daemon.admission import MAX_DENIED, MAX_EACH
from agent.verify.signature import verifies
from tests.support import keys, ssh
from tests.support.daemon import GROUP, MEMBER, STRANGER, Daemon, as_user, open_folder, running_daemon
from tests.support.simulator import running_simulator
from tests.support.waiting import awaited

pytestmark = pytest.mark.fuse
HALVES = {
    "silent": b"",
    "length": b"\0\0",
    "head": b"\0\0\0\5\x0b",
    "large": uint32(MAX_MESSAGE) + bytes(KEPT),
    "list": ssh.listing(),
}
HOLD = """
import socket, sys
socks = []
for _ in range(int(sys.argv[2])):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(sys.argv[1])
    try:
        sock.sendall(bytes.fromhex(sys.argv[3]))
    except OSError:
        pass  # turned away already: it had its share
    socks.append(sock)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with (
        open_folder() as folder,
        running_simulator("snp", folder, pki_state) as simulator,
        running_daemon(simulator, folder, ssh_socket=True) as running,
    ):
        keys.create(running, "deploy", "ssh")
        yield running


def agent(daemon: Daemon) -> Path:
    return daemon.runtime / "ssh.sock"


def require_service(daemon: Daemon) -> None:
    """A list and a signature that verifies, and HTTP beside them."""
    spki = decode(keys.document(daemon, "deploy")).spki
    key = PublicKey.of(spki)
    listed, signed = ssh.ask(agent(daemon), ssh.listing(), ssh.signing(key.blob, ssh.file()))
    assert [blob for blob, _ in ssh.listed(listed)] == [key.blob]
    assert verifies(key.algorithm, spki, key.unwrap(signed[5:]), ssh.file())
    assert daemon.post("/v1/sign", b"x").status == 200


@contextmanager
def held(daemon: Daemon, count: int, words: bytes, user: list[str]) -> Iterator[None]:
    """A process of ``user`` with so many open connections that said ``words`` and read nothing."""
    argv = [*user, sys.executable, "-I", "-c", HOLD, str(agent(daemon)), str(count), words.hex()]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield
        process.kill()


@pytest.mark.parametrize("words", HALVES.values(), ids=list(HALVES))
def test_half_requests_and_killed_clients_disturb_nobody(daemon: Daemon, words: bytes) -> None:
    with held(daemon, MAX_EACH, words, as_user(MEMBER, GROUP)):
        require_service(daemon)
    require_service(daemon)
    awaited(lambda: daemon.status()["connections"], lambda count: count <= 1)


@pytest.mark.parametrize(("uid", "limit"), [(MEMBER, MAX_EACH), (STRANGER, MAX_DENIED)])
def test_nobody_holds_more_than_a_share(daemon: Daemon, uid: int, limit: int) -> None:
    with held(daemon, 2 * limit, b"", as_user(uid, *([GROUP] if uid == MEMBER else []))):
        require_service(daemon)
        assert daemon.status()["connections"] <= limit + 1


def test_two_hundred_at_a_time(daemon: Daemon) -> None:
    """Half of them by another user, who holds them open; each of ours gets its signature."""
    spki = decode(keys.document(daemon, "deploy")).spki
    key = PublicKey.of(spki)

    def one(number: int) -> bool:
        data = ssh.file(f"number {number}")
        listed, signed = ssh.ask(agent(daemon), ssh.listing(), ssh.signing(key.blob, data))
        return len(ssh.listed(listed)) == 1 and verifies(key.algorithm, spki, key.unwrap(signed[5:]), data)

    with held(daemon, 100, ssh.listing(), as_user(MEMBER, GROUP)), ThreadPoolExecutor(100) as threads:
        assert all(threads.map(one, range(400)))


def test_one_connection_for_many_requests(daemon: Daemon) -> None:
    key = PublicKey.of(decode(keys.document(daemon, "deploy")).spki)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(agent(daemon)))
        sock.sendall((ssh.signing(key.blob, ssh.file()) + ssh.listing()) * 100)
        kinds = [answer[0] for answer in ssh.answers(sock, 200)]
    assert kinds == [14, 12] * 100


def test_ten_thousand_messages_of_noise(daemon: Daemon) -> None:
    key = PublicKey.of(decode(keys.document(daemon, "deploy")).spki)
    good = [ssh.signing(key.blob, ssh.file()), ssh.signing(key.blob, ssh.login(key)), ssh.Host().bind(), ssh.listing()]
    chance = random.Random(7)

    def noise() -> bytes:
        data = bytearray(chance.choice(good)[4:])
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return ssh.framed(bytes(data[: chance.randrange(1, len(data) + 1)]))

    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(str(agent(daemon)))
            for _ in range(4):
                sock.sendall(b"".join(noise() for _ in range(25)))
                assert {answer[0] for answer in ssh.answers(sock, 25)} <= {5, 6, 12, 14, 28, 29}
    with ExitStack() as stack:
        for _ in range(50):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(60)
            sock.connect(str(agent(daemon)))
            sock.sendall(chance.randbytes(chance.randrange(1, 3000)))
        require_service(daemon)
