"""Where ssh clients are served: off by default, with the daemon, or at the sockets that a service manager hands over."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.daemon.names import SOCKETS, SSH
from agent.daemon.sockets import BACKLOG, SOCKET_MODE
from tests.support import keys, ssh, tools
from tests.support.daemon import (
    CLI,
    ROLES,
    ROOT,
    START_SECONDS,
    STOP_SECONDS,
    Daemon,
    await_ready,
    open_folder,
    running_daemon,
    start,
    write_config,
)
from tests.support.simulator import Simulator, running_simulator
from tests.support.sshclients import agent
from tests.support.waiting import awaited

pytestmark = pytest.mark.fuse
NONE_LISTED = b"\x0c" + bytes(4)
HAND_OVER = """
import fcntl, os, sys
kept = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 100) for word in sys.argv[1].split(",")]
for number, one in enumerate(kept, 3):
    os.dup2(one, number)
    os.close(one)
names = ":".join(f"tee-agent-{number}.socket" for number in range(len(kept)))
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(kept)), LISTEN_FDNAMES=names)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What systemd does between fork and exec (sd_listen_fds(3)): descriptors from 3 on, and the variables about them."""


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


def test_status_and_its_default(simulator: Simulator) -> None:
    with open_folder() as folder, running_daemon(simulator, folder, ssh_socket=True) as daemon:
        assert daemon.status()["ssh"] == {"socket": str(agent(daemon)), "connections": 0}
    with open_folder() as folder, running_daemon(simulator, folder) as other:
        assert not (other.runtime / "ssh.sock").exists()
        assert other.status()["ssh"] == {"socket": None, "connections": 0}


def test_the_socket_goes_with_the_daemon(simulator: Simulator) -> None:
    with open_folder() as folder:
        with running_daemon(simulator, folder, ssh_socket=True) as running:
            assert agent(running).stat().st_mode & 0o777 == 0o666
            path = agent(running)
        assert not path.exists()


class Manager:
    """Starts the roles one by one, as the units would; the signer with sockets of the manager's."""

    def __init__(self, simulator: Simulator, folder: Path, stack: ExitStack) -> None:
        self._simulator, self._folder, self._stack = simulator, folder, stack
        self._config = write_config(folder, simulator)
        self.runtime = folder / "run"
        self.runtime.mkdir(mode=0o755)
        for role in ROLES:
            if role != "signer":
                self._ready(*start(folder, "daemon", "--role", role, "--config", str(self._config)))

    def listen(self, name: str) -> socket.socket:
        """What a socket unit makes."""
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        path = self.runtime / f"{name}.sock"
        sock.bind(str(path))
        path.chmod(SOCKET_MODE)
        sock.listen(BACKLOG)
        return sock

    def words(self) -> list[str]:
        """What the signer's unit runs."""
        return [*CLI, "daemon", "--role", "signer", "--config", str(self._config)]

    def signer(self, words: Sequence[str], *handed: socket.socket) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """It is started by these words, with these descriptors left open; its ear."""
        path = self._folder / "notify"
        path.unlink(missing_ok=True)
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ear.bind(str(path))
        environment = {**os.environ, "NOTIFY_SOCKET": str(path)}
        descriptors = [sock.fileno() for sock in handed]
        with (self._folder / "daemon.log").open("ab") as log:
            process = subprocess.Popen(
                words, cwd=ROOT, stdout=log, stderr=log, env=environment, pass_fds=descriptors, start_new_session=True
            )
        self._stack.callback(ended, process)
        return process, ear

    def handing(self, *handed: socket.socket) -> Daemon:
        """The signer with these sockets, ready."""
        numbers = ",".join(str(sock.fileno()) for sock in handed)
        words = [sys.executable, "-I", "-c", HAND_OVER, numbers, *self.words()]
        process, ear = self.signer(words, *handed)
        with ear:
            await_ready(ear, process, self._folder)
        return self.daemon(process)

    def daemon(self, process: subprocess.Popen[bytes]) -> Daemon:
        return Daemon(self._folder, self._simulator, process)

    def _ready(self, process: subprocess.Popen[bytes], ear: socket.socket) -> None:
        self._stack.callback(ended, process)
        with ear:
            await_ready(ear, process, self._folder)


def ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(STOP_SECONDS)


@contextmanager
def managed(simulator: Simulator) -> Iterator[Manager]:
    with open_folder() as folder, ExitStack() as stack:
        yield Manager(simulator, folder, stack)


def waiting(path: Path) -> socket.socket:
    """A client that connected and asked, whoever may answer."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(START_SECONDS)
    sock.connect(str(path))
    sock.sendall(ssh.listing())
    return sock


@pytest.mark.parametrize("order", [(SOCKETS["signer"], SSH), (SSH, SOCKETS["signer"])])
def test_a_manager_s_sockets_outlive_the_signer(simulator: Simulator, order: tuple[str, str]) -> None:
    """In whatever order. Who connects while it is away waits, over a crash too, and is answered by the next one."""
    with managed(simulator) as manager:
        sockets = [manager.listen(name) for name in order]
        daemon = manager.handing(*sockets)
        assert daemon.status()["ssh"]["socket"] == str(agent(daemon))
        assert ssh.ask(agent(daemon), ssh.listing()) == [NONE_LISTED]
        os.kill(daemon.process.pid, signal.SIGKILL)
        daemon.process.wait(STOP_SECONDS)
        with waiting(agent(daemon)) as client:
            again = manager.handing(*sockets)
            assert list(ssh.answers(client, 1)) == [NONE_LISTED]
        assert again.terminate() == 0
        assert agent(daemon).is_socket()
        assert not agent(daemon).with_suffix(".lock").exists()


def test_without_its_unit_there_is_no_socket_for_ssh(simulator: Simulator) -> None:
    with managed(simulator) as manager:
        daemon = manager.handing(manager.listen(SOCKETS["signer"]))
        assert daemon.status()["ssh"]["socket"] is None
        assert not agent(daemon).exists()


def test_a_unit_for_another_place_stops_the_start(simulator: Simulator) -> None:
    with managed(simulator) as manager:
        handed = [manager.listen(name) for name in (SOCKETS["signer"], "other")]
        numbers = ",".join(str(sock.fileno()) for sock in handed)
        process, ear = manager.signer([sys.executable, "-I", "-c", HAND_OVER, numbers, *manager.words()], *handed)
        ear.close()
        assert process.wait(START_SECONDS) == 78
        assert "other.sock" in manager.daemon(process).log


def test_systemd_hands_them_over(simulator: Simulator) -> None:
    """By its own program for that, which starts the signer when the first client comes."""
    with managed(simulator) as manager:
        paths = [manager.runtime / f"{name}.sock" for name in (SOCKETS["signer"], SSH)]
        names = "--fdname=tee-agent.socket:tee-agent-ssh.socket"
        activate = [tools.need("systemd-socket-activate"), "-E", "NOTIFY_SOCKET", names]
        listens = [word for path in paths for word in ("-l", str(path))]
        process, ear = manager.signer([*activate, *listens, *manager.words()])
        daemon = manager.daemon(process)
        awaited(lambda: process.poll() is not None or daemon.log.count("Listening on ") == len(paths))
        assert process.poll() is None, daemon.log
        with ear, waiting(agent(daemon)) as client:
            await_ready(ear, process, daemon.folder)
            assert list(ssh.answers(client, 1)) == [NONE_LISTED]
        created = keys.create(daemon, "deploy", "ssh")
        (answer,) = ssh.ask(agent(daemon), ssh.listing())
        assert ssh.listed(answer)[0][1] == f"uid-0/deploy#1 {created['id']}"
