"""A real `tas serve` on loopback, over TLS, with its state in a test's own folder.

::

    with running_tas(tmp_path / "tas", trust_roots=[export / "root.pem"], endorsements=export) as service:
        service.create_secret("disk")
        service.put_policy(snp_policy("web", "disk", measurement.hex()))
        ...  # service.url, service.pin, service.api_key_file, service.secret("disk"), service.log()
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sim.export import Machine
from sim.qe import QuotingEnclave
from tests.support.waiting import awaited

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
"""For a process or an answer, on a busy machine."""


@dataclass(frozen=True)
class Reply:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and text of a refusal."""
        return self.status, self.json["error"]


class Prover:
    """A guest: bodies of get_secret with evidence of simulated hardware, and the key that opens the answer."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.tee = "intel-tdx" if isinstance(machine, QuotingEnclave) else "amd-sev-snp"
        self.key = rsa.generate_private_key(65537, 2048)

    def public(self, encoding: Encoding = Encoding.DER, form: PublicFormat = PublicFormat.PKCS1) -> bytes:
        return self.key.public_key().public_bytes(encoding, form)

    def body(
        self, nonce: str, policy_id: str, *, key: bytes | None = None, bound: bytes | None = None
    ) -> dict[str, Any]:
        """A sound body; ``key`` is sent instead of ours, ``bound`` is put into REPORT_DATA instead of the right bytes."""
        key = self.public() if key is None else key
        report_data = hashlib.sha512(nonce.encode() + key).digest() if bound is None else bound
        return {
            "tee-type": self.tee,
            "nonce": nonce,
            "tee-evidence": b64(self.machine.report(report_data, 0).outblob),
            "policy-id": policy_id,
            "report-data-binding": True,
            "wrapping-key": b64(key),
        }

    def unwrap(self, answer: Reply) -> bytes:
        """The secret in a 200 answer."""
        assert answer.status == 200, answer
        part = {name: base64.b64decode(value) for name, value in answer.json["secret_key"].items()}
        aes = self.key.decrypt(part["wrapped_key"], padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
        return AESGCM(aes).decrypt(part["iv"], part["blob"] + part["tag"], None)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


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
        self.url = self.pin = self._trusted = ""
        self._held = ExitStack()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def start(self, port: int = 0) -> None:
        """Start it and wait until it serves. A fixed port only to come back on the one it had."""
        reader, writer = os.pipe()
        listen = f"127.0.0.1:{port}"
        command = [sys.executable, "-W", "error", "-m", "tas", "serve", "--state", str(self.state), "--listen", listen]
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
        self._held.close()
        self.url, self.pin = line.split()
        self._trusted = self.certificate.read_text()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> None:
        """SIGKILL: nothing is closed or flushed."""
        assert self.process
        self.process.kill()
        self._ended()

    def _ended(self) -> int:
        """Its exit status. Until it is back nobody else is given its port, and who connects is refused."""
        assert self.process
        status = self.process.wait(START_SECONDS)
        self._held.close()
        held = self._held.enter_context(socket.socket())
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", self.port))
        return status

    def close(self) -> None:
        """The end of it all."""
        if self.process and self.process.poll() is None:
            self.kill()
        self._held.close()

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
        with sqlite3.connect(self.state / "tas.sqlite", timeout=60) as database:
            row = database.execute("SELECT value FROM secrets WHERE key_id = ?", (key_id,)).fetchone()
        database.close()
        assert row, key_id
        value: bytes = row[0]
        return value

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """One HTTP request with the API key; ``body`` as JSON, or ``raw`` bytes; ``headers`` replace the usual ones."""
        sent = {"X-API-KEY": self.api_key_file.read_text().strip()}
        if body is not None:
            sent["Content-Type"] = "application/json"
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=START_SECONDS, context=self.tls())
        try:
            connection.request(method, path, data, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.headers), answer.read())
        finally:
            connection.close()

    def nonce(self) -> str:
        answer = self.request("GET", "/kb/v0/get_nonce")
        assert answer.status == 200, answer
        nonce: str = answer.json["nonce"]
        return nonce

    def get_secret(self, body: Any) -> Reply:
        return self.request("POST", "/kb/v0/get_secret", body)

    def log(self) -> list[dict[str, Any]]:
        """Its log so far, one dictionary per line."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines() if line.startswith("{")]

    def await_event(self, event: str) -> dict[str, Any]:
        """The last line of this kind, once there is one."""
        return awaited(lambda: [line for line in self.log() if line["event"] == event])[-1]

    def tls(self) -> ssl.SSLContext:
        """A client context that trusts the certificate that the server started with, and nothing else."""
        return ssl.create_default_context(cadata=self._trusted)


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
    try:
        service.start()
        yield service
    finally:
        service.close()


@contextmanager
def connected(service: RunningTas, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=START_SECONDS) as plain,
        (context or service.tls()).wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        yield secure


def read_all(connection: ssl.SSLSocket) -> bytes:
    """Until the server closes; b"" too when it does so without a goodbye."""
    parts = []
    try:
        while part := connection.recv(4096):
            parts.append(part)
    except (ConnectionError, ssl.SSLError):
        pass
    return b"".join(parts)


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
