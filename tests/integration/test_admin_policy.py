"""`tee-agent policy draft` against real interfaces: the daemon's quoter, a stopped daemon's socket, a service."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.policy import Policy
from agent.verify.endorsements import load_folder
from agent.verify.evidence import genuine_anchors, verify_evidence
from tests.support.daemon import ROOT, open_folder, running_daemon, write_config
from tests.support.simulator import Simulator, running_simulator

pytestmark = [pytest.mark.fuse, pytest.mark.root]
AGENT = [sys.executable, "-W", "error", "-m", "agent.cli"]


@pytest.fixture(scope="module", params=["snp", "tdx"])
def simulator(request: pytest.FixtureRequest, pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator(request.param, folder, pki_state) as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as found:
        yield found


def draft(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*AGENT, "policy", "draft", "--key-id", "disk", *words, "--config", str(config)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_draft_accepts_this_machine_and_says_what_it_does_not_cover(simulator: Simulator, folder: Path) -> None:
    config = write_config(folder, simulator)
    done = draft(config)
    assert done.returncode == 0, done.stderr
    assert "nothing else" in done.stderr
    policy = Policy.from_bytes(done.stdout.encode())
    entry = simulator.mount / "own"
    entry.mkdir()
    try:
        (entry / "inblob").write_bytes(bytes(64))
        evidence = (entry / "outblob").read_bytes()
    finally:
        entry.rmdir()
    anchors = (*genuine_anchors(), simulator.anchor)
    verified = verify_evidence(
        evidence, load_folder(simulator.export), at=datetime.now(UTC), anchors=anchors, policy=policy
    )
    assert verified.tee is simulator.tee


def test_the_daemon_s_quoter_is_asked_where_one_runs(simulator: Simulator, folder: Path) -> None:
    with running_daemon(simulator, folder, audience="rp.example") as daemon:
        # Only the daemon knows the way to the evidence.
        elsewhere = daemon.config.with_name("client.toml")
        elsewhere.write_text(daemon.config.read_text().replace(str(simulator.mount), "/nowhere"))
        done = draft(elsewhere, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["metadata"]["policy_id"] == "disk"
        # Evidence of another scope than the one asked for is not taken.
        elsewhere.write_text(elsewhere.read_text().replace("rp.example", "other.example"))
        done = draft(elsewhere)
        assert (done.returncode, done.stdout) == (65, "")
        assert "[verify.binding]" in done.stderr


def test_a_stopped_daemon_s_socket_is_passed_over(simulator: Simulator, folder: Path) -> None:
    config = write_config(folder, simulator)
    (folder / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "run" / "quoter.sock"))
    assert draft(config, "--quiet").returncode == 0


def test_the_file_is_written_whole_and_named(simulator: Simulator, folder: Path) -> None:
    config, output = write_config(folder, simulator), folder / "policy.json"
    output.write_text("older")
    done = draft(config, "--policy-id", "web", "-o", str(output), "--json")
    assert json.loads(done.stdout)["file"] == str(output)
    assert Policy.from_bytes(output.read_bytes()).policy_id == "web"
    assert [path.name for path in folder.iterdir() if "partial" in path.name] == []
    refused = draft(config, "-o", str(folder / "missing" / "policy.json"))
    assert refused.returncode == 64


def test_a_machine_that_may_be_debugged_gets_no_draft(folder: Path, tmp_path: Path, pki_state: Path) -> None:
    with running_simulator("tdx", folder, pki_state, "--debug-guest") as simulator:
        done = draft(write_config(folder, simulator), "-o", str(tmp_path / "policy.json"))
    assert done.returncode == 65
    assert "[verify.policy.floor]" in done.stderr
    assert list(tmp_path.iterdir()) == []
