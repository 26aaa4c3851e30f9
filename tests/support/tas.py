"""A real `tas serve` on loopback, over TLS, with its state in a test's own folder.

::

    with running_tas(tmp_path / "tas", trust_roots=[export / "root.pem"], endorsements=export) as service:
        service.create_secret("disk")
        service.put_policy(snp_policy("web", "disk", measurement.hex()))
        ...  # service.url, service.pin, service.api_key_file, service.secret("disk"), service.log()
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30


class RunningTas:
    """One state directory and the server on it. ``pin`` is ``spki:sha256:<hex>``, ``url`` has no trailing slash."""

    def __init__(
        self, folder: Path, *, trust_roots: Sequence[Path], endorsements: Path | None, arguments: Sequence[str]
    ) -> None:
        self.state = folder
        self.api_key_file = folder / "api-key"
        self.certificate = folder / "tls-cert.pem"
        self.log_file = folder.with_name(folder.name + ".log")
        self._words = [word for root in trust_roots for word in ("--trust-root", str(root))]
        self._words += ["--endorsements", str(endorsements)] if endorsements else []
        self._words += arguments
        self.url = self.pin = ""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def start(self, port: int = 0) -> None:
        """Start it and wait until it serves. A fixed port only to come back on the one it had."""
        reader, writer = os.pipe()
        listen = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "tas", "serve", "--state", str(self.state), "--listen", listen]
        with self.log_file.open("ab") as sink:
            self.process = subprocess.Popen(
                [*command, "--ready-fd", str(writer), *self._words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=(writer,),
            )
        os.close(writer)
        with os.fdopen(reader) as ready:
            line = ready.readline()  # "" when it ended without serving
        assert line, self.log_file.read_text()
        self.url, self.pin = line.split()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_SECONDS)

    def kill(self) -> None:
        """SIGKILL: nothing is closed or flushed."""
        assert self.process
        self.process.kill()
        self.process.wait(START_SECONDS)

    def restart(self) -> None:
        """Again on the same port."""
        self.start(self.port)

    def run(self, *words: str, stdin: str = "", status: int = 0) -> str:
        """``tas WORDS --state ...``: what it prints. Fails unless it exits with ``status``."""
        done = subprocess.run(
            [sys.executable, "-m", "tas", *words, "--state", str(self.state)],
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert done.returncode == status, f"tas {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def create_secret(self, key_id: str) -> None:
        self.run("secret", "create", key_id)

    def put_policy(self, document: dict[str, Any], *, replace: bool = False) -> None:
        self.run("policy", "put", "-", *(["--replace"] if replace else []), stdin=json.dumps(document))

    def secret(self, key_id: str) -> bytes:
        """What a client must receive, read past the product."""
        with sqlite3.connect(self.state / "tas.sqlite", timeout=10) as database:
            row = database.execute("SELECT value FROM secrets WHERE key_id = ?", (key_id,)).fetchone()
        database.close()
        assert row, key_id
        value: bytes = row[0]
        return value

    def log(self) -> list[dict[str, Any]]:
        """Its log so far, one dictionary per line."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines() if line.startswith("{")]

    def tls(self) -> ssl.SSLContext:
        """A client context that trusts this server's certificate and nothing else."""
        return ssl.create_default_context(cafile=str(self.certificate))


@contextmanager
def running_tas(
    folder: Path,
    *,
    trust_roots: Sequence[Path] = (),
    endorsements: Path | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[RunningTas]:
    """A server with state in ``folder`` (made if missing), ended afterwards. ``arguments`` go to `tas serve`."""
    service = RunningTas(folder, trust_roots=trust_roots, endorsements=endorsements, arguments=arguments)
    service.start()
    try:
        yield service
    finally:
        if service.process and service.process.poll() is None:
            service.kill()


def snp_policy(policy_id: str, key_id: str, measurement: str) -> dict[str, Any]:
    """Pins an SNP launch measurement (96 hex characters)."""
    return _policy("SEV", policy_id, key_id, {"measurement": measurement})


def tdx_policy(policy_id: str, key_id: str, registers: dict[str, str]) -> dict[str, Any]:
    """Pins mr_td, rtmr0, rtmr1 and rtmr2 (96 hex characters each)."""
    return _policy("TDX", policy_id, key_id, registers)


def _policy(kind: str, policy_id: str, key_id: str, values: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"policy_type": kind, "policy_id": policy_id, "key_id": key_id, "name": policy_id, "version": "1"},
        "validation_rules": {name: {"exact_match": value} for name, value in values.items()},
    }
