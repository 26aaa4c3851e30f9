"""The processes behind POST /v1/verify are killed, one and all: what is replaced, what is told, what goes on without."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.auditlog import last
from tests.support.daemon import CLI, ROOT, Daemon, Reply, open_folder, running_daemon
from tests.support.processes import Held, children
from tests.support.prometheus import parse
from tests.support.simulator import Simulator, running_simulator
from tests.support.waiting import awaited

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    """Its folder is one that the signer's user may pass through."""
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    with open_folder() as folder, running_daemon(simulator, folder) as running:
        yield running
        assert "Traceback" not in running.log, running.log


def ask(daemon: Daemon) -> Reply:
    asked = {"document": {"text": "x"}, "any_workload": True}
    return daemon.post("/v1/verify", json.dumps(asked).encode(), Content_Type="application/json")


def keeper_and_server(daemon: Daemon) -> tuple[int, int]:
    (keeper,) = children(daemon.role("signer"))
    (server,) = awaited(lambda: children(keeper))
    return keeper, server


def kill(pid: int) -> None:
    """And wait until it is gone."""
    with Held(pid) as process:
        os.kill(pid, signal.SIGKILL)
        assert process.gone()


def kill_all(daemon: Daemon) -> None:
    """Keeper first: it replaces nobody then. Returns when the signer has noticed."""
    for pid in keeper_and_server(daemon):
        kill(pid)
    awaited(lambda: daemon.status()["verification"]["trouble"])


def gauge(daemon: Daemon) -> float:
    (value,) = parse(daemon.request("GET", "/metrics").body.decode())["tee_agent_verify_trouble"].samples.values()
    return value


def said(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*CLI, "status", "--config", str(daemon.config), *words]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def records(daemon: Daemon) -> list[dict[str, Any]]:
    """What the audit log has about it."""
    lines = [line.record for line in last(daemon.folder / "audit", 1000) if line.record]
    return [dict(record.fields) for record in lines if record.fields.get("what") == "verification"]


def test_a_server_that_is_killed_is_replaced(daemon: Daemon) -> None:
    keeper, server = keeper_and_server(daemon)
    assert ask(daemon).status == 422
    kill(server)
    # Who asks in the meantime waits for the next one.
    assert ask(daemon).status == 422
    after = keeper_and_server(daemon)
    assert after[0] == keeper
    assert after[1] != server
    assert daemon.status()["verification"] == {"trouble": None}
    assert gauge(daemon) == 0
    assert records(daemon) == []
    assert daemon.log.count("tee-agent verifier: ended by signal 9; another one follows\n") == 1


def test_without_the_keeper_the_server_goes_on(daemon: Daemon) -> None:
    kill(keeper_and_server(daemon)[0])
    assert ask(daemon).status == 422
    assert daemon.status()["verification"] == {"trouble": None}


def test_when_all_are_gone_everybody_is_told(daemon: Daemon) -> None:
    assert not [finding for finding in json.loads(said(daemon, "--json").stdout)["problems"] if "verif" in str(finding)]
    kill_all(daemon)
    for _ in range(3):
        reply = ask(daemon)
        assert (reply.status, reply.json["code"]) == (503, "server.verify")
        assert "systemctl restart tee-agent-signer.service" in reply.json["hint"]
    trouble = daemon.status()["verification"]["trouble"]
    assert trouble["code"] == "server.verify"
    assert gauge(daemon) == 1

    status = said(daemon, "--json")
    (problem,) = [one for one in json.loads(status.stdout)["problems"] if one["subject"] == "verification"]
    assert (status.returncode, problem["text"], problem["hint"]) == (1, trouble["message"], trouble["hint"])
    assert "verification" in said(daemon).stdout

    # Once, however often somebody asks.
    awaited(lambda: records(daemon))
    assert records(daemon) == [{"what": "verification", "code": "server.verify", "message": trouble["message"]}]
    assert daemon.log.count("tee-agent signer: verification: ") == 1
    assert daemon.status()["audit"]["last_hour"]["warning"] == 1


def test_when_all_are_gone_everything_else_goes_on(daemon: Daemon) -> None:
    kill_all(daemon)
    assert daemon.post("/v1/sign", b"x").status == 200
    assert children(daemon.role("signer")) == []
    assert daemon.terminate() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_they_end_with_the_signer(daemon: Daemon, how: signal.Signals) -> None:
    keeper, server = keeper_and_server(daemon)
    with Held(keeper) as one, Held(server) as other:
        os.kill(daemon.role("signer"), how)
        assert one.gone()
        assert other.gone()


def test_a_signal_to_all_of_the_unit_ends_them_last(daemon: Daemon) -> None:
    keeper, server = keeper_and_server(daemon)
    with Held(keeper) as one, Held(server) as other:
        os.kill(keeper, signal.SIGTERM)
        os.kill(server, signal.SIGTERM)
        assert ask(daemon).status == 422
        assert daemon.terminate() == 0
        assert one.gone()
        assert other.gone()
