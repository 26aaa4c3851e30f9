"""A program that knows only the protocol document gets its secret, from the kernel interface to the clear bytes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sim.psp import default_measurement
from sim.qe import default_register
from tests.support.simulator import pki_state, running_simulator
from tests.support.tas import RunningTas, running_tas, snp_policy, tdx_policy

__all__ = ["pki_state"]

CLIENT = Path(__file__).resolve().parents[1] / "support" / "independent_tas_client.py"
REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2")

pytestmark = pytest.mark.fuse


def run_client(
    service: RunningTas, mount: Path, tee_type: str, *certificates: Path
) -> subprocess.CompletedProcess[str]:
    words = [service.url, service.certificate, service.api_key_file, mount, tee_type, "web", *certificates]
    command = [sys.executable, "-I", str(CLIENT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=mount.parent)


def enrol(service: RunningTas, tee: str) -> bytes:
    service.create_secret("disk")
    if tee == "snp":
        service.put_policy(snp_policy("web", "disk", default_measurement().hex()))
    else:
        service.put_policy(tdx_policy("web", "disk", {name: default_register(name).hex() for name in REGISTERS}))
    return service.secret("disk")


@pytest.mark.parametrize(("tee", "tee_type"), [("snp", "amd-sev-snp"), ("tdx", "intel-tdx")])
def test_gets_the_secret(tee: str, tee_type: str, tmp_path: Path, pki_state: Path) -> None:
    with (
        running_simulator(tee, tmp_path / "sim", pki_state) as simulator,
        running_tas(tmp_path / "tas", trust_roots=[simulator.root_pem], endorsements=simulator.export) as service,
    ):
        secret = enrol(service, tee)
        done = run_client(service, simulator.mount, tee_type)
        assert (done.stdout, done.stderr) == (secret.hex() + "\n", "")


def test_gets_it_with_certificates_of_its_own(tmp_path: Path, pki_state: Path) -> None:
    with (
        running_simulator("snp", tmp_path / "sim", pki_state) as simulator,
        running_tas(
            tmp_path / "tas", trust_roots=[simulator.root_pem], arguments=["--allow-unchecked-revocation"]
        ) as service,
    ):
        secret = enrol(service, "snp")
        assert "TEE verification failed" in run_client(service, simulator.mount, "amd-sev-snp").stderr
        certificates = sorted((simulator.export / "certs").iterdir())
        assert run_client(service, simulator.mount, "amd-sev-snp", *certificates).stdout == secret.hex() + "\n"


def test_root_that_nobody_added_gets_nothing(tmp_path: Path, pki_state: Path) -> None:
    with (
        running_simulator("snp", tmp_path / "sim", pki_state) as simulator,
        running_tas(tmp_path / "tas", endorsements=simulator.export) as service,
    ):
        enrol(service, "snp")
        done = run_client(service, simulator.mount, "amd-sev-snp")
        assert (done.returncode, done.stdout) == (1, "")
        assert service.log()[-1]["code"] == "verify.untrusted-root"


def test_client_imports_nothing_of_the_product() -> None:
    nodes = list(ast.walk(ast.parse(CLIENT.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "cryptography"}
