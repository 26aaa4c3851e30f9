"""Nobody gets what the policy does not give: every path and method, asked by each kind of caller, with real processes.

It walks ROUTES, so an endpoint that is added is tried too. What the callers are is made by the kernel: users, groups,
cgroups of units and containers, a process that is another program since it connected.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.access import OPERATIONS
from agent.daemon.api import ROUTES
from tests.support.access import rule, text
from tests.support.cgroups import cgroup, inside
from tests.support.daemon import GROUP, MEMBER, PYTHON, STRANGER, Daemon, as_user, open_folder, running_daemon
from tests.support.simulator import Simulator, running_simulator
from tests.support.waiting import awaited

pytestmark = pytest.mark.fuse
BOX = "3" * 64
SLICE = f"tanobody{os.getpid()}.slice"
ALLOWED = "metrics"
"""The one operation that the group, the unit and the container may."""

EVERYTHING = """
import json, socket, sys
found = {}
for line in sys.stdin:
    method, path = line.split()
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(sys.argv[1])
    body = b'{"nonce": "%s", "name": "stolen", "use": "raw"}' % (b"00" * 32)
    head = "%s %s HTTP/1.1\\r\\nHost: a\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
    sock.sendall((head % (method, path, len(body))).encode() + body)
    sock.shutdown(socket.SHUT_WR)
    answer = b""
    try:
        while chunk := sock.recv(65536):
            answer += chunk
    except OSError:
        pass
    text = answer.partition(b"\\r\\n\\r\\n")[2]
    code = json.loads(text).get("code", "") if b"problem+json" in answer else ""
    found[line.strip()] = [int(answer.split()[1]), code]
print(json.dumps(found))
"""
"""Asks for each line of its input, and says how that was answered: status and code."""


def routes() -> dict[str, str]:
    """The operation of each "METHOD path"; named things are root's."""
    found = {}
    for path, methods in ROUTES.items():
        for method, operation in methods.items():
            for name in ("own", "other"):
                found[f"{method} {path.replace('{name}', name).replace('{digest}', '00' * 64)}"] = operation
    return found


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    """Its folder is one that the signer's user may pass through."""
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    """Its policy gives one operation to a group, a unit and a container, and root's default to root."""
    with open_folder() as folder:
        (folder / "policy.d").mkdir(mode=0o755)
        rules = (
            rule("group", who={"group": str(GROUP)}, operations=ALLOWED),
            rule("unit", who={"unit": "nobody.service", "user": str(STRANGER)}, operations=ALLOWED),
            rule("box", who={"container": BOX}, operations=ALLOWED),
        )
        (folder / "policy.d" / "10.toml").write_text(text(*rules))
        with running_daemon(simulator, folder) as running:
            made = json.dumps({"name": "own", "use": "raw"}).encode()
            assert running.post("/v1/keys", made, Content_Type="application/json").status == 201
            yield running
            # What was refused has changed nothing.
            assert [key.get("name") for key in running.request("GET", "/v1/keys").json["keys"]] == [None, "own"]
            assert running.request("GET", "/v1/keys/own").json["generation"] == 1


def everything(daemon: Daemon, *words: str) -> dict[str, tuple[int, str]]:
    """How each path and method is answered to a process that ``words`` start."""
    argv = [*words, sys.executable, "-I", "-S", "-c", EVERYTHING, str(daemon.socket)]
    said = subprocess.run(
        argv, input="\n".join(routes()) + "\n", capture_output=True, text=True, check=True, timeout=120
    ).stdout
    return {line: (status, code) for line, (status, code) in json.loads(said).items()}


def require_refused(found: dict[str, tuple[int, str]], code: str) -> None:
    wrong = {line: answer for line, answer in found.items() if answer != (403, code)}
    assert wrong == {}


def require_only_allowed(found: dict[str, tuple[int, str]]) -> None:
    """The one operation is answered; everything else is refused, or is no request at all before it could be judged."""
    for line, operation in routes().items():
        status, code = found[line]
        if operation == ALLOWED:
            assert status == 200, line
        else:
            assert (status, code) == (403, "denied.policy") or (status, code.split(".")[0]) in (
                (400, "usage"),
                (400, "format"),
                (404, "usage"),
                (413, "format"),
            ), f"{line}: {status} {code}"


def test_every_operation_is_tried() -> None:
    assert set(routes().values()) == set(OPERATIONS)


def test_another_user_gets_nothing(daemon: Daemon) -> None:
    require_refused(everything(daemon, *as_user(STRANGER)), "denied")
    require_refused(everything(daemon, *as_user(MEMBER)), "denied")


def test_a_member_of_the_group_gets_what_the_group_may(daemon: Daemon) -> None:
    require_only_allowed(everything(daemon, *as_user(MEMBER, GROUP)))
    require_only_allowed(everything(daemon, *as_user(MEMBER, gid=GROUP)))


@pytest.mark.parametrize(
    ("place", "user", "allowed"),
    [
        ("nobody.service", STRANGER, True),
        ("nobody.service/below", STRANGER, True),
        ("nobody.service", MEMBER, False),
        ("other.service", STRANGER, False),
        ("other.service/nobody.service", STRANGER, False),
        (f"docker-{BOX}.scope", STRANGER, True),
        (f"other.service/docker-{BOX}.scope", STRANGER, False),
        (f"docker-{'4' * 64}.scope", STRANGER, False),
    ],
)
def test_units_and_containers(daemon: Daemon, place: str, user: int, allowed: bool) -> None:
    with cgroup(f"/{SLICE}/{place}") as group:
        found = everything(daemon, *inside(group), *as_user(user))
    if allowed:
        require_only_allowed(found)
    else:
        require_refused(found, "denied")


def test_root_by_default_gets_everything(daemon: Daemon) -> None:
    assert daemon.request("GET", "/metrics").status == 200
    assert daemon.request("GET", "/v1/keys/own").status == 200
    assert daemon.post("/v1/sign", b"x").status == 200


LEFT = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
os.read(0, 1)
if os.fork():
    os._exit(0)  # who connected is gone; the child holds the connection
os.read(0, 1)
s.settimeout(60)
s.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
answer = b""
while chunk := s.recv(65536):
    answer += chunk
sys.stdout.write(answer.decode())
sys.stdout.flush()
"""


def test_a_connection_that_outlives_its_owner_is_worth_nothing(daemon: Daemon) -> None:
    """Root's own, too: its number may be another process's by now. It was seen when it was there."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", LEFT, str(daemon.socket)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        awaited(lambda: daemon.status()["connections"], lambda count: count == 2)
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.wait(60) == 0
        process.stdin.write(b"x")
        process.stdin.flush()
        answer = process.stdout.read()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b'"denied.peer"' in answer


def test_a_stranger_s_connection_stays_a_stranger_s(daemon: Daemon) -> None:
    """Connected, then used by another program: who connected counts."""
    use = (
        "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.settimeout(60); "
        "s.sendall(b'GET /metrics HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n'); "
        "print(s.recv(12).decode())"
    )
    connect = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); os.dup2(s.fileno(), 9); "
        f"os.execv(sys.executable, [sys.executable, '-I', '-S', '-c', {use!r}, '9'])"
    )
    for user, status in ((as_user(STRANGER), "403"), (as_user(MEMBER, GROUP), "200"), ([], "200")):
        argv = [*user, PYTHON, "-I", "-S", "-c", connect, str(daemon.socket)]
        said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
        assert said.split()[1] == status
