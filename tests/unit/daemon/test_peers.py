"""Peers: real socket pairs and real processes where the kernel decides, texts where we do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent.core.accessrule import HIDDEN
from agent.core.errors import Denied
from agent.daemon import peers
from agent.daemon.cgroup import unit_of
from agent.daemon.peers import Allowed, Caller, identify, pidfd_by_start_time

CONNECT = """
import socket, sys, os
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/app.service\n", "app.service"),
        ("0::/system.slice/app.service/payload/evil.service\n", "app.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.service\n", "user@1000.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("0::/system.slice/_cpu.service\n", "cpu.service"),
        ("0::/\n", ""),
        ("0::/docker/abc/app.service\n", ""),
        ("0::/system.slice\n", ""),
        ("12:pids:/x.service\n1:name=systemd:/system.slice/old.service\n", "old.service"),
        ("1:name=systemd:/system.slice/old.service\n0::/system.slice/new.service\n", "new.service"),
        ("10:memory:/a0::/x.service\n0::/system.slice/b.service\n", "b.service"),
        ("4:memory:/:name=systemd:/x.service\n", ""),
        ("", ""),
        ("garbage", ""),
    ],
)
def test_first_unit_of_the_path(text: str, unit: str) -> None:
    assert unit_of(text) == unit


def caller(uid: int = 1000, gid: int = 1000, groups: tuple[int, ...] = ()) -> Caller:
    return Caller(1, uid, gid, groups, "")


def test_default_deny() -> None:
    assert not Allowed().permits(caller())
    assert Allowed().permits(caller(uid=0))
    assert Allowed(uids=frozenset({1000})).permits(caller())
    assert Allowed(gids=frozenset({1000})).permits(caller())
    assert Allowed(gids=frozenset({27})).permits(caller(groups=(4, 27)))
    assert not Allowed(uids=frozenset({1001}), gids=frozenset({27})).permits(caller(groups=(4, 28)))
    # A uid is not a gid.
    assert not Allowed(gids=frozenset({1000})).permits(caller(gid=5))


def test_a_socket_pair_is_ourselves() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, identify(ours) as peer:
        assert (peer.caller.pid, peer.caller.uid, peer.caller.gid) == (os.getpid(), os.geteuid(), os.getegid())
        assert set(peer.caller.groups) == set(os.getgroups())
        assert peer.alive()


def test_where_proc_hides_the_peer_its_place_is_not_known(tmp_path: Path) -> None:
    assert peers.notes() == ()
    assert peers.notes(tmp_path)
    own = tmp_path / str(os.getpid())
    own.mkdir()
    for name in ("stat", "status"):  # below Linux 6.5 these are asked too
        (own / name).write_bytes(Path("/proc/self", name).read_bytes())
    ours, theirs = socket.socketpair()
    with ours, theirs, identify(ours, tmp_path) as peer:
        assert (peer.caller.unit, peer.caller.container) == (HIDDEN, "")


def test_closed_is_not_alive() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = identify(ours)
        peer.close()
        peer.close()
        assert not peer.alive()


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.listen()
    return server


@pytest.mark.parametrize("reaped", [False, True])
def test_an_exited_peer_is_refused(listener: socket.socket, tmp_path: Path, reaped: bool) -> None:
    child = subprocess.Popen([sys.executable, "-I", "-c", CONNECT, str(tmp_path / "s")], stdin=subprocess.PIPE)
    connection, _ = listener.accept()
    with listener, connection:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
        with pytest.raises(Denied, match="exited"):
            identify(connection)
        child.communicate()


def test_a_peer_that_exits_later_stops_being_alive(listener: socket.socket, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-I", "-c", CONNECT, str(tmp_path / "s")], stdin=subprocess.PIPE) as child:
        connection, _ = listener.accept()
        with listener, connection, identify(connection) as peer:
            assert peer.alive()
            child.kill()
            child.wait()
            assert not peer.alive()


def fake_proc(tmp_path: Path, start: int) -> Path:
    (tmp_path / "7").mkdir(exist_ok=True)
    fields = " ".join(["S", *["0"] * 18, str(start), "0"])
    (tmp_path / "7" / "stat").write_text(f"7 (a ) b) {fields}\n")
    return tmp_path


def test_old_kernels_compare_the_start_time(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, 4711)

    def reused(pid: int) -> int:
        fake_proc(tmp_path, 4712)
        return os.open("/dev/null", os.O_RDONLY)

    def kept(pid: int) -> int:
        return os.open("/dev/null", os.O_RDONLY)

    os.close(pidfd_by_start_time(7, proc, kept))
    with pytest.raises(Denied):
        pidfd_by_start_time(7, proc, reused)
    with pytest.raises(Denied):
        pidfd_by_start_time(8, proc, kept)


def test_old_kernels_for_real() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        os.close(pidfd_by_start_time(child.pid, Path("/proc")))
        child.kill()
        child.wait()
    with pytest.raises(Denied):
        pidfd_by_start_time(child.pid, Path("/proc"))


def test_without_so_peerpidfd_identify_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SO_PEERPIDFD", 9999)  # an option this kernel doesn't know
    ours, theirs = socket.socketpair()
    with ours, theirs, identify(ours) as peer:
        assert peer.caller.pid == os.getpid()
        assert peer.alive()
