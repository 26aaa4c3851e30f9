"""Who connected, asked of the kernel with real users, groups, cgroups and process numbers that come again."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.errors import Denied
from agent.daemon import peers
from agent.daemon.peers import Caller, Peer, identify, of_process
from tests.support.cgroups import cgroup, inside
from tests.support.daemon import GROUP, MEMBER, ROOT, STRANGER, as_user, open_folder

pytestmark = pytest.mark.root
BOX, OTHER_BOX = "c" * 64, "d" * 64
SLICE = f"tatest{os.getpid()}.slice"

CONNECT = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
os.set_inheritable(s.fileno(), True)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Connects, then is another program. Nothing is imported later: not every user may read the tree."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@contextmanager
def connected(folder: Path, words: Sequence[str] = (), then: Sequence[str] = ("cat",)) -> Iterator[Peer]:
    """The peer that ``words`` CONNECT ``then`` is."""
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o666)
        server.listen()
        server.settimeout(30)
        argv = [*words, sys.executable, "-I", "-S", "-c", CONNECT, str(path), *then]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            connection, _ = server.accept()
            try:
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write(b"x")
                child.stdin.flush()
                # The program after exec answers: so what is asked now is asked of it.
                assert child.stdout.read(1) == b"x"
                with connection, identify(connection) as peer:
                    yield peer
            finally:
                child.kill()
                path.unlink()


def seen(folder: Path, words: Sequence[str] = (), then: Sequence[str] = ("cat",)) -> Caller:
    with connected(folder, words, then) as peer:
        assert peer.alive()
        return peer.caller


def test_users_and_groups(folder: Path) -> None:
    root = seen(folder, ["setpriv", "--clear-groups"])
    assert (root.uid, root.gid, root.groups) == (0, 0, ())
    member = seen(folder, as_user(MEMBER, GROUP))
    assert (member.uid, member.gid, member.groups) == (MEMBER, MEMBER, (GROUP,))
    stranger = seen(folder, as_user(STRANGER))
    assert (stranger.uid, stranger.groups, stranger.groups_unknown) == (STRANGER, (), False)


def test_the_effective_user_counts(folder: Path) -> None:
    with connected(folder, ["setpriv", "--euid", str(STRANGER), "--egid", str(GROUP), "--clear-groups"]) as peer:
        assert (peer.caller.uid, peer.caller.gid) == (STRANGER, GROUP)
        assert of_process(peer.caller.pid, Path("/proc")) == peer.caller


def test_more_groups_than_are_read_are_unknown(folder: Path) -> None:
    edge, over = (range(1, peers.MAX_GROUPS + more) for more in (1, 2))
    assert seen(folder, as_user(MEMBER, *edge)).groups == tuple(edge)
    crowd = seen(folder, as_user(MEMBER, *over))
    assert (crowd.groups, crowd.groups_unknown) == ((), True)


@pytest.mark.parametrize(
    ("before", "after"), [(as_user(STRANGER), ["cat"]), ([], [*as_user(STRANGER), "cat"])], ids=["program", "user"]
)
def test_exec_after_connect_changes_nothing(folder: Path, before: list[str], after: list[str]) -> None:
    caller = seen(folder, before, after)
    plain = seen(folder, before)
    assert (caller.uid, caller.gid, caller.groups) == (plain.uid, plain.gid, plain.groups)
    assert caller.uid == (STRANGER if before else 0)


@pytest.mark.parametrize(
    ("path", "unit", "container"),
    [
        ("web.service", "web.service", ""),
        ("web.service/other.service", "web.service", ""),
        (f"docker-{BOX}.scope", f"docker-{BOX}.scope", BOX),
        (f"docker-{BOX}.scope/docker-{OTHER_BOX}.scope", f"docker-{BOX}.scope", BOX),
        (f"web.service/docker-{BOX}.scope", "web.service", ""),
        (f"web.service/docker/{BOX}", "web.service", ""),
        (f"user@1000.service/user.slice/libpod-{BOX}.scope", "user@1000.service", ""),
        (f"libpod-conmon-{BOX}.scope", f"libpod-conmon-{BOX}.scope", ""),
    ],
)
def test_units_and_containers(folder: Path, path: str, unit: str, container: str) -> None:
    with cgroup(f"/{SLICE}/{path}") as group:
        caller = seen(folder, [*inside(group), *as_user(STRANGER)])
    assert (caller.uid, caller.unit, caller.container) == (STRANGER, unit, container)


def test_a_container_at_the_root_of_the_tree(folder: Path) -> None:
    with cgroup(f"/docker/{BOX}") as group:
        assert seen(folder, inside(group)).container == BOX


def test_the_same_is_seen_of_a_process_that_did_not_connect(folder: Path) -> None:
    with cgroup(f"/{SLICE}/web.service") as group, connected(folder, [*inside(group), *as_user(MEMBER, GROUP)]) as peer:
        assert of_process(peer.caller.pid, Path("/proc")) == peer.caller
    for pid in (peer.caller.pid, 0, -1, 1 << 22, 1 << 40):
        with pytest.raises(Denied):
            of_process(pid, Path("/proc"))


REUSE = """
import errno, json, os, socket, sys
from pathlib import Path
from agent.core.errors import Denied
from agent.daemon import peers

path, other_user, kernel_is_old = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "old"
if kernel_is_old:
    peers.SO_PEERPIDFD = 9999
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
go, came = os.pipe(), os.pipe()

def fork(user=None):
    pid = os.fork()
    if not pid:
        if user:
            os.setresuid(user, user, user)
        os.write(came[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(came[0], 1)
    return pid

first = os.fork()
if not first:
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    if not os.fork():  # holds the connection when its owner is gone
        os.read(go[0], 1)
        os._exit(0)
    os._exit(0)
os.waitpid(first, 0)
Path("/proc/sys/kernel/ns_last_pid").write_text(str(first - 1))
second = fork(other_user)
connection, _ = server.accept()
pid = peers.struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
try:
    with peers.identify(connection) as peer:
        said = "taken for %d" % peer.caller.pid
except Denied as error:
    said = error.code
print(json.dumps({"same_number": pid == first == second, "said": said}))
os.write(go[1], b"xx")
"""


def reused(folder: Path, other_user: int, kernel: str) -> str:
    """What identify says of a connection whose owner's number is another process's now."""
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", REUSE]
    done = subprocess.run(
        [*argv, str(folder / "s"), str(other_user), kernel], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["same_number"], "the number did not come again: the test shows nothing"
    return str(found["said"])


def has_peer_pidfd() -> bool:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, peers.SO_PEERPIDFD))
        except OSError as error:
            assert error.errno == errno.ENOPROTOOPT
            return False
        return True


@pytest.mark.skipif(not has_peer_pidfd(), reason="needs Linux 6.5: SO_PEERPIDFD")
@pytest.mark.parametrize("other_user", [0, STRANGER])
def test_a_number_that_came_again_is_refused(folder: Path, other_user: int) -> None:
    assert reused(folder, other_user, "new") == "denied.peer"


def test_on_an_old_kernel_it_is_refused_to_other_users(folder: Path) -> None:
    assert reused(folder, STRANGER, "old") == "denied.peer"


def test_on_an_old_kernel_the_same_user_s_next_process_is_not_told_apart(folder: Path) -> None:
    # As tee-agent-daemon(8) says.
    assert reused(folder, 0, "old").startswith("taken for")
