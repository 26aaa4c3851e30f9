"""The demo's folder, its long-running processes and its door to commands."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

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
        registers = ("measurement",) if tee == "snp" else ("mr_td", "rtmr0", "rtmr1", "rtmr2")
        self.reference = {name: secrets.token_hex(48) for name in registers}
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

    def start(self, name: str, *argv: str | Path) -> None:
        """Start a process that says READY=1 as a unit would, and see to its end."""
        notify = self.folder / f"{name}.notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
            ear.bind(str(notify))
            notify.chmod(0o666)
            process = self._spawn(name, argv, (), {"NOTIFY_SOCKET": str(notify)})
            self._await(ear, process, name, b"READY=1")
        notify.unlink()

    def start_with_fd(self, name: str, *argv: str | Path) -> None:
        """Start a process that writes a line to ``--ready-fd``, and see to its end."""
        ear, theirs = socket.socketpair()
        with ear, theirs:
            words = (*argv, "--ready-fd", str(theirs.fileno()))
            process = self._spawn(name, words, (theirs.fileno(),), {})
            self._await(ear, process, name, b"\n")

    def _spawn(
        self, name: str, argv: Sequence[str | Path], pass_fds: tuple[int, ...], extra: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as sink:
            process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **extra},
                pass_fds=pass_fds,
                start_new_session=True,
            )
        self.stack.callback(_stop, process)
        return process

    def _await(self, ear: socket.socket, process: subprocess.Popen[bytes], name: str, word: bytes) -> None:
        end = time.monotonic() + READY_SECONDS
        ear.settimeout(0.2)
        why = f"was not ready within {READY_SECONDS} s"
        while time.monotonic() < end:
            try:
                if word in ear.recv(4096):
                    return
            except TimeoutError:
                pass
            if process.poll() is not None:
                why = f"ended with {process.returncode}"
                break
        raise StepFailed(f"{name} {why}:\n{self.log(name)}")

    def log(self, name: str) -> str:
        """What a process that was started here has said so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")


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
