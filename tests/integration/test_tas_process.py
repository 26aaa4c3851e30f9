"""The server as a process: bounds on clients, crash and restart, reload, one server per state, readiness."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sim.export import export
from sim.psp import default_measurement
from tests.support.simulator import machine, pki_state
from tests.support.tas import ROOT, START_SECONDS, Prover, RunningTas, connected, running_tas, snp_policy

__all__ = ["pki_state"]

NONCE = "/kb/v0/get_nonce"


@pytest.fixture(scope="module")
def prover(pki_state: Path) -> Prover:
    return Prover(machine("snp", pki_state))


@pytest.fixture
def endorsements(prover: Prover, tmp_path: Path) -> Path:
    export(prover.machine, tmp_path / "endorsements")
    return tmp_path / "endorsements"


def enrol(service: RunningTas) -> bytes:
    service.create_secret("disk")
    service.put_policy(snp_policy("web", "disk", default_measurement().hex()))
    return service.secret("disk")


# Crash, restart, reload


def test_kill_keeps_policies_and_secrets(tmp_path: Path, prover: Prover, endorsements: Path) -> None:
    root = endorsements / "root.pem"
    with running_tas(tmp_path / "tas", trust_roots=[root], endorsements=endorsements) as service:
        secret = enrol(service)
        pin, old = service.pin, service.nonce()
        for _ in range(3):
            service.kill()
            service.restart()
            assert service.pin == pin
            assert prover.unwrap(service.get_secret(prover.body(service.nonce(), "web"))) == secret
        # Nonces are the one thing that ends with the server.
        assert service.get_secret(prover.body(old, "web")).error == (401, "Invalid or expired nonce")


def test_ready_fd_that_is_none(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas") as service:
        service.stop()
        said = service.run("serve", "--listen", "127.0.0.1:0", "--ready-fd", "999", status=64)
        assert "--ready-fd 999" in said


def test_ends_at_sigterm(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas") as service, connected(service):
        assert service.stop() == 0


def test_one_server_for_a_state(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas") as service:
        said = service.run("serve", "--listen", "127.0.0.1:0", status=73)
        assert "[conflict]" in said
        assert service.request("GET", NONCE).status == 200


def test_address_in_use(tmp_path: Path) -> None:
    with running_tas(tmp_path / "one") as one:
        command = [sys.executable, "-m", "tas", "serve", "--state", str(tmp_path / "two"), "--listen"]
        done = subprocess.run(
            [*command, f"127.0.0.1:{one.port}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert done.returncode == 78
        assert "can't listen" in done.stderr


def test_policy_and_secret_put_while_serving(tmp_path: Path, prover: Prover, endorsements: Path) -> None:
    root = endorsements / "root.pem"
    with running_tas(tmp_path / "tas", trust_roots=[root], endorsements=endorsements) as service:
        assert service.get_secret(prover.body(service.nonce(), "web")).error == (400, "TEE verification failed")
        secret = enrol(service)
        assert prover.unwrap(service.get_secret(prover.body(service.nonce(), "web"))) == secret
        service.put_policy(snp_policy("web", "disk", "ab" * 48), replace=True)
        assert service.get_secret(prover.body(service.nonce(), "web")).status == 400
        service.run("policy", "delete", "web")
        assert service.get_secret(prover.body(service.nonce(), "web")).status == 400


def test_reload(tmp_path: Path, prover: Prover, endorsements: Path) -> None:
    root, folder = endorsements / "root.pem", tmp_path / "loaded"
    folder.mkdir()
    words = ("--rate-limit", "0")
    with running_tas(tmp_path / "tas", trust_roots=[root], endorsements=folder, arguments=words) as service:
        secret = enrol(service)
        assert service.process
        assert service.get_secret(prover.body(service.nonce(), "web")).status == 400
        for path in (*(endorsements / "certs").iterdir(), *(endorsements / "crls").iterdir()):
            (folder / path.name).write_bytes(path.read_bytes())
        service.api_key_file.write_text("k" * 40 + "\n")
        service.process.send_signal(signal.SIGHUP)
        service.await_event("reload")
        assert prover.unwrap(service.get_secret(prover.body(service.nonce(), "web"))) == secret


def test_reload_of_something_broken_changes_nothing(tmp_path: Path, prover: Prover, endorsements: Path) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes((endorsements / "root.pem").read_bytes())
    words = ("--rate-limit", "0")
    with running_tas(tmp_path / "tas", trust_roots=[root], endorsements=endorsements, arguments=words) as service:
        secret = enrol(service)
        assert service.process
        root.write_text("no certificate")
        service.process.send_signal(signal.SIGHUP)
        assert "root.pem" in str(service.await_event("reload-failed")["reason"])
        assert prover.unwrap(service.get_secret(prover.body(service.nonce(), "web"))) == secret


def test_reload_of_the_certificate(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas", arguments=("--rate-limit", "0")) as service:
        assert service.process
        service.certificate.write_bytes(b"broken")
        service.process.send_signal(signal.SIGHUP)
        assert "no usable pair" in str(service.await_event("reload-failed")["reason"])
        assert service.request("GET", NONCE).status == 200
        service.certificate.unlink()
        service.run("init", "--name", "new.example.org", status=73)  # not while it is served
        service.stop()
        service.run("init", "--name", "new.example.org")
        pin = service.pin
        service.restart()
        assert (service.pin, service.request("GET", NONCE).status) == (pin, 200)


def test_readiness_by_notify_socket(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(address))
        ear.settimeout(START_SECONDS)
        process = subprocess.Popen(
            [sys.executable, "-m", "tas", "serve", "--state", str(tmp_path / "tas"), "--listen", "127.0.0.1:0"],
            cwd=ROOT,
            env={"NOTIFY_SOCKET": str(address), "PATH": "/usr/bin:/bin"},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert ear.recv(4096).startswith(b"READY=1\n")
            process.terminate()
            assert ear.recv(4096) == b"STOPPING=1"
            assert process.wait(START_SECONDS) == 0
        finally:
            process.kill()
            process.wait()


def test_files_of_a_running_server_are_the_owners_alone(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas") as service:
        service.create_secret("disk")
        service.nonce()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in service.state.iterdir()}
        assert {"tas.sqlite", "tas.sqlite-wal", "tls-key.pem", "api-key"} <= set(modes)
        assert set(modes.values()) == {0o600}
        assert stat.S_IMODE(service.state.stat().st_mode) == 0o700


def test_leaves_no_core(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas") as service:
        assert service.process
        limits = Path(f"/proc/{service.process.pid}/limits").read_text()
        row = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert row.split()[4:6] == ["0", "0"]


# What `tas check` says


def test_check_marks_added_roots(tmp_path: Path, endorsements: Path) -> None:
    root = endorsements / "root.pem"
    with running_tas(tmp_path / "tas", trust_roots=[root], endorsements=endorsements) as service:
        enrol(service)
        facts = json.loads(service.run("check", "--json"))
        assert (facts["running"], facts["pin"], facts["secrets"]) == (True, service.pin, 1)
        assert [item["name"] for item in facts["roots"] if not item["genuine"]] == ["root.pem"]
        assert [item["policy_id"] for item in facts["policies"]] == ["web"]
        assert any("added trust root root.pem" in text for text in facts["warnings"])
        screen = service.run("check")
        assert [line for line in screen.splitlines() if line.startswith("root.pem") and "ADDED" in line]
        service.kill()
        assert json.loads(service.run("check", "--json"))["running"] is False


def test_check_speaks_of_revocation(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas") as service:
        assert any("no CRL is loaded" in text for text in json.loads(service.run("check", "--json"))["warnings"])
    with running_tas(tmp_path / "tas", arguments=["--allow-unchecked-revocation"]) as service:
        assert any("may go unchecked" in text for text in json.loads(service.run("check", "--json"))["warnings"])


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    with running_tas(tmp_path / "tas") as service:
        assert json.loads(service.run("check", "--json"))["problems"] == []
        service.put_policy(snp_policy("web", "nothing", "ab" * 48))
        facts = json.loads(service.run("check", "--json", status=78))
        assert facts["problems"] == ["policy web: there is no secret 'nothing'"]
        assert "PROBLEM" in service.run("check", status=78)
