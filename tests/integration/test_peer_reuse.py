"""A process number that comes again gets nothing at the daemon: the connection stays that of the process which made it.

Daemon and clients live in a PID namespace of their own, where a number can be given out again at will: who connected
exits, and a process of another user gets its number while it holds the connection.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import GROUP, MEMBER, SIGNER, STRANGER, Daemon, open_folder, running_daemon
from tests.support.processes import children, name
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
CLOSED = "closed"

ATTACK = """
import json, os, signal, socket, struct, sys
wanted = json.loads(sys.argv[1])
go, came = os.pipe(), os.pipe()

def become(user):
    os.setgroups(user[1:])
    os.setresgid(user[0], user[0], user[0])
    os.setresuid(user[0], user[0], user[0])

def exactly(sock, count):
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise ConnectionResetError
        data += chunk
    return data

def http(sock):
    # The same bytes each time: what is remembered of a request must not outlive its caller.
    sock.sendall(b"POST /v1/sign HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 1\\r\\n\\r\\nx")
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        head += exactly(sock, 1)
    size = int(head.lower().partition(b"content-length: ")[2].split(b"\\r\\n")[0])
    said = json.loads(exactly(sock, size))
    return [int(head.split()[1]), said.get("code", "")]

def ssh(sock):
    sock.sendall(b"\\0\\0\\0\\1\\x0b")
    (size,) = struct.unpack(">I", exactly(sock, 4))
    return [exactly(sock, size)[0], ""]

def rpc(sock):
    body = json.dumps({"method": "challenge_batch", "params": {"tree_size": 1, "root": "00" * 64}}).encode()
    sock.sendall(struct.pack(">I", len(body)) + body)
    (size,) = struct.unpack(">I", exactly(sock, 4))
    said = json.loads(exactly(sock, size))
    return [0, said["error"]["code"]] if "error" in said else [1, ""]

def ask(sock):
    try:
        return {"http": http, "ssh": ssh, "rpc": rpc}[wanted["protocol"]](sock)
    except OSError:
        return "closed"

def connected():
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(wanted["socket"])
    return sock

def stopped(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"

frozen = wanted["frozen"]
if frozen:
    os.kill(frozen, signal.SIGSTOP)
    while not stopped(frozen):
        pass
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(60)
first = os.fork()
if not first:
    become(wanted["first"])
    sock.connect(wanted["socket"])
    os.write(came[1], b"x")
    os.read(go[0], 1)
    os._exit(0)
os.read(came[0], 1)
# Used by root, while who connected lives.
before = [ask(sock) for _ in range(wanted["before"])]
os.write(go[1], b"x")
os.waitpid(first, 0)

for _ in range(1000):  # others in the namespace start threads
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(first - 1))
    second = os.fork()
    if not second:
        if os.getpid() == first:
            become(wanted["second"])
            os.write(came[1], b"x")
            os.read(go[0], 1)
            after, own = ask(sock), ask(connected())
            os.write(came[1], json.dumps([after, own]).encode())
        os._exit(0)
    if second == first:
        break
    os.waitpid(second, 0)
else:
    sys.exit("the number did not come again: the test shows nothing")
os.read(came[0], 1)
if frozen:
    os.kill(frozen, signal.SIGCONT)
os.write(go[1], b"x")
after, own = json.loads(os.read(came[0], 4096))
os.waitpid(second, 0)
print(json.dumps({"before": before, "after": after, "own": own}))
"""
"""What is not told of by the first process, its heir asks; and, to compare, the heir on a connection of its own."""
ROOT, ALLOWED, OTHER, OURS = [0], [MEMBER, GROUP], [STRANGER], [SIGNER]


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    """Its folder is one that the signer's user may pass through."""
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    """The first process of its namespace."""
    with open_folder() as folder, running_daemon(simulator, folder, within=NAMESPACE, ssh_socket=True) as running:
        try:
            yield running
        finally:
            os.kill(supervisor(running), signal.SIGTERM)
            running.process.wait(60)
        assert "Traceback" not in running.log, running.log


def supervisor(daemon: Daemon) -> int:
    """As it is called here, outside."""
    (pid,) = children(daemon.process.pid)
    return pid


def attacked(daemon: Daemon, first: list[int], second: list[int], **more: Any) -> dict[str, Any]:
    """What ``first``'s connection is good for, before and after ``second`` gets its number."""
    wanted = {
        "protocol": "http",
        "socket": str(daemon.socket),
        "frozen": 0,
        "before": 0,
        "first": first,
        "second": second,
        **more,
    }
    words = ["nsenter", "--target", str(supervisor(daemon)), "--pid", "--mount", "--root"]
    argv = [*words, sys.executable, "-I", "-S", "-c", ATTACK, json.dumps(wanted)]
    done = subprocess.run(argv, cwd="/", capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def inside(daemon: Daemon, role: str) -> int:
    """A role's process id as it is in the namespace."""
    (pid,) = [pid for pid in children(supervisor(daemon)) if name(pid) == f"tee-{role}"]
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid:")]
    return int(line.split()[-1])


def test_who_can_t_be_seen_is_not_served(daemon: Daemon) -> None:
    """Root from outside: it has no number in the daemon's namespace."""
    with pytest.raises(ConnectionError):
        daemon.post("/v1/sign", b"x")


@pytest.mark.parametrize("heir", [OTHER, ROOT], ids=["stranger", "root"])
def test_what_an_exited_process_may_its_number_may_not(daemon: Daemon, heir: list[int]) -> None:
    found = attacked(daemon, ALLOWED, heir, before=3)
    # Root asked, and was taken for who connected; so is nobody once that one is gone, root neither.
    assert found["before"] == [[200, ""]] * 3
    assert found["after"] == [403, "denied.peer"]
    assert found["own"] == ([200, ""] if heir == ROOT else [403, "denied"])


def test_who_is_permitted_nothing_does_not_become_root(daemon: Daemon) -> None:
    assert attacked(daemon, OTHER, ROOT, before=2)["before"] == [[403, "denied"], CLOSED]
    found = attacked(daemon, OTHER, ROOT)
    assert found["after"] in ([403, "denied"], CLOSED)
    assert found["own"] == [200, ""]


@pytest.mark.parametrize(("first", "heir"), [(OTHER, ROOT), (ALLOWED, OTHER), (ALLOWED, ROOT), (ROOT, OTHER)])
def test_a_number_that_came_again_before_the_connection_was_looked_at(
    daemon: Daemon, first: list[int], heir: list[int]
) -> None:
    """The signer stands still while it happens: it sees the connection when the number is the heir's already."""
    found = attacked(daemon, first, heir, frozen=inside(daemon, "signer"))
    assert found["after"] == CLOSED
    assert found["own"] == ([200, ""] if heir == ROOT else [403, "denied"])


@pytest.mark.parametrize("frozen", [False, True])
def test_ssh_clients_likewise(daemon: Daemon, frozen: bool) -> None:
    """12 is a list of keys, 5 a refusal (draft-ietf-sshm-ssh-agent)."""
    path = str(daemon.runtime / "ssh.sock")
    stop, before = (inside(daemon, "signer"), 0) if frozen else (0, 2)
    found = attacked(daemon, ALLOWED, ROOT, protocol="ssh", socket=path, frozen=stop, before=before)
    assert found["before"] == [[12, ""]] * before
    assert found["after"] in ([5, ""], CLOSED)
    assert found["own"] == [12, ""]


@pytest.mark.parametrize("frozen", [False, True])
def test_our_own_processes_likewise(daemon: Daemon, frozen: bool) -> None:
    """The quoter serves the signer's user: not the heir of one of its processes, nor that of a stranger's."""
    path, stop = str(daemon.runtime / "quoter.sock"), inside(daemon, "quoter") if frozen else 0
    found = attacked(daemon, OURS, OTHER, protocol="rpc", socket=path, frozen=stop)
    assert found["after"] in ([0, "denied.peer"], CLOSED)
    assert found["own"] == CLOSED
    found = attacked(daemon, OTHER, OURS, protocol="rpc", socket=path, frozen=stop)
    assert found["after"] == CLOSED
    assert found["own"] == [1, ""]
