"""A real `tee-agent daemon` on a simulated TEE, and a few ways to talk to its sockets.

::

    with running_daemon(simulator, folder, audience="rp") as daemon:
        reply = daemon.post("/v1/sign", b"payload")

``folder`` comes from ``open_folder()``: short, and reachable for other users. Ids are numbers without an entry.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.verify.bundle import BundleVerdict, verify_bundle
from agent.verify.evidence import genuine_anchors
from agent.verify.signed import Judge
from agent.verify.workload import Workload
from tests.support.simulator import Simulator

ROOT = Path(__file__).resolve().parents[2]
CLOSED = any(folder.stat().st_mode & 0o5 != 0o5 for folder in (ROOT, *ROOT.parents))
"""Other users can't read the source, as below /root."""
SIGNER, FETCHER, STRANGER, MEMBER, GROUP = 64101, 64102, 64103, 64104, 64200
START_SECONDS, STOP_SECONDS = 60, 40
CLI = [sys.executable, "-m", "agent.cli"]
PYTHON = os.path.realpath(sys.executable)
"""For what other users start: the virtual environment may lie below /root. It has the standard library only."""
ROLES = ("quoter", "fetcher", "signer")


@contextmanager
def open_folder() -> Iterator[Path]:
    """A short path under the system's temporary folder that every user may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="ta-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("agent", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = dial(self.path)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def dial(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(str(path))
    return sock


def as_user(uid: int, *groups: int, gid: int | None = None) -> list[str]:
    """Words that run a command as this user, with these supplementary groups only."""
    extra = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    return ["setpriv", "--reuid", str(uid), "--regid", str(uid if gid is None else gid), *extra]


@dataclass
class Daemon:
    """A running daemon; ``process`` is the supervisor."""

    folder: Path
    simulator: Simulator
    process: subprocess.Popen[bytes]

    @property
    def runtime(self) -> Path:
        return self.folder / "run"

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def socket(self) -> Path:
        return self.runtime / "agent.sock"

    @property
    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        connection = Connection(self.socket)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: bytes = b"", **headers: str) -> Reply:
        return self.request("POST", path, body, **headers)

    def challenge(self, **document: Any) -> Reply:
        return self.post("/v1/challenge", json.dumps(document).encode(), Content_Type="application/json")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.request("GET", "/v1/status").json
        return found

    def verify(
        self, bundle: bytes, payload: bytes | None, *, storage: frozenset[str] | None = None, **asked: Any
    ) -> BundleVerdict:
        """The bundle, judged by agent.verify with the simulator's root added."""
        anchors = (*genuine_anchors(), self.simulator.anchor)
        judge = Judge(datetime.now(UTC), Workload(any_workload=True), anchors, storage=storage)
        return verify_bundle(bundle, judge, payload=payload, **asked)

    def curl(self, *words: str, user: Sequence[str] = ()) -> tuple[int, bytes]:
        """curl on the socket: status of the answer and its body."""
        argv = [*user, "curl", "-sS", "--unix-socket", str(self.socket), "--path-as-is", "-w", "\n%{http_code}", *words]
        body, _, status = run(*argv).rpartition(b"\n")
        return int(status), body

    def role(self, name: str) -> int:
        """The process id of a role."""
        pid: int = self.status()["processes"][name]["pid"]
        return pid

    def simulator_entries(self) -> list[str]:
        """Entries left in the kernel's interface."""
        return sorted(path.name for path in self.simulator.mount.iterdir())

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


def run(*argv: str) -> bytes:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout


def write_config(folder: Path, simulator: Simulator, more: str = "", **daemon: Any) -> Path:
    """agent.toml in ``folder``; ``more`` is put before its [daemon] section."""
    section = {
        "runtime_dir": str(folder / "run"),
        "allow_groups": [str(GROUP)],
        "signer_user": str(SIGNER),
        "fetcher_user": str(FETCHER),
        "keys_folder": str(folder / "keys"),
        **daemon,
    }
    lines = [
        "[evidence]",
        f"tsm_root = {json.dumps(str(simulator.mount))}",
        f"lock_file = {json.dumps(str(folder / 'quote.lock'))}",
        f"endorsements = {json.dumps(str(simulator.export))}",
        more,
        # No test asks a genuine vendor's service.
        *("[endorsements]", 'kds_url = "http://127.0.0.1:1"', 'pcs_url = "http://127.0.0.1:1"', "seconds = 1"),
        "[audit]",
        f"folder = {json.dumps(str(folder / 'audit'))}",
        "[daemon]",
        *(f"{name} = {json.dumps(value)}" for name, value in section.items()),
    ]
    path = folder / "agent.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def running_daemon(
    simulator: Simulator, folder: Path, more: str = "", *, within: Sequence[str] = (), **daemon: Any
) -> Iterator[Daemon]:
    """Started, READY said; ended with everything of it afterwards. ``within``: words that run the command."""
    config = write_config(folder, simulator, more, **daemon)
    process, ear = start(folder, "daemon", "--config", str(config), within=within)
    try:
        with ear:
            await_ready(ear, process, folder)
        yield Daemon(folder, simulator, process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()


def start(
    folder: Path, *arguments: str, cwd: Path = ROOT, within: Sequence[str] = (), **environment: str
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """`tee-agent ARGUMENTS` with a notify socket of its own; its log is daemon.log."""
    notify = folder / "notify"
    notify.unlink(missing_ok=True)
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear.bind(str(notify))
    variables = {**os.environ, "NOTIFY_SOCKET": str(notify), **environment}
    with (folder / "daemon.log").open("ab") as log:
        return subprocess.Popen([*within, *CLI, *arguments], cwd=cwd, stdout=log, stderr=log, env=variables), ear


def await_ready(ear: socket.socket, process: subprocess.Popen[bytes], folder: Path) -> None:
    ear.settimeout(START_SECONDS)
    while b"READY=1" not in (message := ear.recv(4096)):
        if b"STOPPING=1" in message:
            raise AssertionError(f"exit {process.wait(STOP_SECONDS)}: {(folder / 'daemon.log').read_text()}")
