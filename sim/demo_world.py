"""The demo's folder, its long-running processes and its door to commands."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO

BIN = Path(sys.executable).parent
COMMAND_SECONDS = 120
READY_SECONDS = 90


class StepFailed(Exception):
    """A step did not end as it should; the text has the command and what it said."""


class World:
    """Paths of one demo and what runs in it. Everything started here is stopped when ``stack`` closes, newest first."""

    def __init__(self, tee: str, folder: Path, stack: ExitStack) -> None:
        self.tee = tee
        self.folder = folder
        self.stack = stack
        self.mount = folder / "tsm" / "report"
        self.endorsements = folder / "endorsements"
        self.root_pem = self.endorsements / "root.pem"
        self.tas_state = folder / "tas"
        self.tas_port = free_port()
        self.config = folder / "tee-agent.toml"
        self.image = folder / "disk.img"
        self.passphrase = folder / "passphrase"
        self.runtime = folder / "run"
        self.socket = self.runtime / "agent.sock"
        self.policy = folder / "policy.json"
        self.payload = folder / "release.tar"
        self.bundle = folder / "release.bundle"
        # A signer without privileges must be able to pass through.
        folder.chmod(0o755)

    def run(self, *argv: str | Path, status: int = 0, stdin: bytes = b"") -> str:
        """Run a command to its end, which must be ``status``. Returns stdout and stderr together."""
        done = subprocess.run(
            [str(word) for word in argv],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        text = done.stdout.decode(errors="replace")
        if done.returncode != status:
            raise StepFailed(f"{' '.join(map(str, argv))}\nended with {done.returncode}, not {status}:\n{text}")
        return text

    def agent(self, *words: str | Path, status: int = 0, stdin: bytes = b"") -> str:
        """``tee-agent WORDS``, with the demo's configuration."""
        return self.run(BIN / "tee-agent", *words, "--config", self.config, status=status, stdin=stdin)

    def tas(self, *words: str | Path, status: int = 0) -> str:
        """``tas WORDS``, on the demo's state."""
        return self.run(BIN / "tas", *words, "--state", self.tas_state, status=status)

    def start(self, name: str, *argv: str | Path) -> Path:
        """Start a process, wait until it says READY, see to its end. Returns its log."""
        log = self.folder / f"{name}.log"
        notify = self.folder / f"{name}.notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear, log.open("wb") as sink:
            ear.bind(str(notify))
            notify.chmod(0o666)
            process = _spawn(argv, sink, notify)
            self.stack.callback(_stop, process)
            _await_ready(ear, process, name, log)
        notify.unlink()
        return log


def _spawn(argv: tuple[str | Path, ...], sink: IO[bytes], notify: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT,
        env={**os.environ, "NOTIFY_SOCKET": str(notify)},
        start_new_session=True,
    )


def _await_ready(ear: socket.socket, process: subprocess.Popen[bytes], name: str, log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    ear.settimeout(0.2)
    while time.monotonic() < end:
        if process.poll() is not None:
            raise StepFailed(f"{name} ended with {process.returncode}:\n{log.read_text(errors='replace')}")
        try:
            if b"READY=1" in ear.recv(4096):
                return
        except TimeoutError:
            continue
    raise StepFailed(f"{name} was not ready within {READY_SECONDS} s:\n{log.read_text(errors='replace')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=5)


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
