"""A simulated TEE for tests: a real ``python -m sim`` process on a FUSE mount, or the bare machine in this process.

Tests that mount need root and /dev/fuse: mark them ``fuse``. ``pki_state`` is shared by the
whole session, for RSA-4096 keys take seconds; tests/integration/conftest.py has it for all tests there, others import
it in their conftest.py.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core.model import Tee, TrustAnchor
from sim.control import ask
from sim.export import Machine
from sim.keys import State
from sim.psp import GuestOptions, SecureProcessor
from sim.qe import DomainOptions, QuotingEnclave

_REPOSITORY = Path(__file__).resolve().parents[2]
_READY_SECONDS = 120
_STOP_SECONDS = 30


@dataclass(frozen=True)
class Simulator:
    """Paths of a running simulator. ``mount`` is what EvidenceConfig.tsm_root should be."""

    tee: Tee
    process: subprocess.Popen[bytes]
    mount: Path
    export: Path
    control: Path

    @property
    def root_pem(self) -> Path:
        return self.export / "root.pem"

    @property
    def anchor(self) -> TrustAnchor:
        return anchor(x509.load_pem_x509_certificate(self.root_pem.read_bytes()))

    def fault(self, spec: str) -> None:
        """Put a fault in line: NAME[:COUNT[:VALUE]]."""
        reply = ask(self.control, f"fault {spec}")
        assert reply == "ok", reply

    def clear(self) -> None:
        """Forget all faults and end a stall."""
        assert ask(self.control, "clear") == "ok"

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)


@contextmanager
def running_simulator(tee: str, folder: Path, state: Path, *options: str) -> Iterator[Simulator]:
    """A simulator of ``tee`` (snp, tdx) with its files in ``folder`` (short: sockets have 107 bytes) and its keys in
    ``state``; ``options`` go to the command line as they are."""
    mount, export, control = folder / "tsm", folder / "endorsements", folder / "sim.sock"
    ours, theirs = os.pipe()
    argv = [sys.executable, "-m", "sim", "--tee", tee, "--mount", str(mount), "--state", str(state)]
    argv += ["--export", str(export), "--control", str(control), "--ready-fd", str(theirs), "--foreground", *options]
    process = subprocess.Popen(argv, cwd=_REPOSITORY, pass_fds=(theirs,), stdin=subprocess.DEVNULL)
    try:
        os.close(theirs)
        with os.fdopen(ours, "rb") as ready:
            assert ready.readline() == b"ready\n", f"the simulator did not start: {process.wait(_READY_SECONDS)}"
        yield Simulator(Tee.TDX if tee == "tdx" else Tee.SNP, process, mount, export, control)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        finally:
            process.kill()


def machine(tee: str, state: Path, options: GuestOptions | DomainOptions | None = None) -> Machine:
    """The simulated hardware without kernel or mount: ``.report(data, vmpl).outblob``, ``.endorsements()``, ``.root``."""
    now = datetime.now(UTC)
    if tee == "tdx":
        return QuotingEnclave(State(state), options if isinstance(options, DomainOptions) else DomainOptions(), now)
    return SecureProcessor(State(state), options if isinstance(options, GuestOptions) else GuestOptions(), now)


def anchor(root: x509.Certificate) -> TrustAnchor:
    """A root as somebody would add it: known by its key, never genuine."""
    spki = root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TrustAnchor(name="tee-agent simulator", spki_sha256=hashlib.sha256(spki).digest())


@pytest.fixture(scope="session")
def pki_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder for all simulators of this session, all its workers included: the hierarchies are made once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "simulator-pki"
