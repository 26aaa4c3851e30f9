"""The status while the other processes hang: what it says then, and how many may ask."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tests.support.daemon import CLI, ROOT, Daemon, open_folder, running_daemon
from tests.support.processes import children, name
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    """Its folder is one that the signer's user may pass through."""
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture
def hung(simulator: Simulator) -> Iterator[Daemon]:
    """A daemon whose quoter and fetcher stand still."""
    with open_folder() as folder, running_daemon(simulator, folder) as daemon:
        pids = [daemon.role(role) for role in ("quoter", "fetcher")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield daemon
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def test_the_command_says_which_of_them_do_not_answer(hung: Daemon) -> None:
    argv = [*CLI, "status", "--json", "--config", str(hung.config)]
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(said.stdout)
    assert said.returncode == 1
    assert found["agent"]["state"] == "running", found["agent"]["reason"]
    (problem,) = [one for one in found["problems"] if one["subject"] == "processes"]
    assert "no answer from quoter, fetcher" in problem["text"]
    assert found["service"]["state"] == "unknown"


def test_who_asks_meanwhile_gets_the_same_answer(hung: Daemon) -> None:
    """A hundred that ask, and one that wants to know: nobody waits for a hundred answers that do not come."""
    (signer,) = [pid for pid in children(hung.process.pid) if name(pid) == "tee-signer"]

    def threads() -> int:
        return sum(1 for _ in Path(f"/proc/{signer}/task").iterdir())

    before = most = threads()
    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(hung.status) for _ in range(100)]
        while wait(asked, timeout=0.05).not_done:
            most = max(most, threads())
    found = [future.result()["processes"] for future in asked]
    assert {(one["quoter"]["pid"], one["fetcher"]["pid"]) for one in found} == {(None, None)}
    assert most <= before + 8
