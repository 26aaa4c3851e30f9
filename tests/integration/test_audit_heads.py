"""A daemon and a service: heads of the audit log arrive there with the keys, and a log made anew is found out."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent import cli
from agent.core.statement import Statement
from sim.psp import default_measurement
from tas import cli as tas
from tests.support.daemon import Daemon, open_folder, running_daemon
from tests.support.simulator import Simulator, running_simulator
from tests.support.tas import RunningTas, running_tas, snp_policy
from tests.support.waiting import awaited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starts roles as other users")


@pytest.fixture(scope="module")
def machine(pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as simulator:
        yield simulator


@contextmanager
def service(folder: Path, machine: Simulator, measurement: str = "") -> Iterator[RunningTas]:
    with running_tas(folder / "tas", trust_roots=[machine.root_pem], endorsements=machine.export) as running:
        running.create_secret("disk")
        running.put_policy(snp_policy("web", "disk", measurement or default_measurement().hex()))
        yield running


def section(running: RunningTas) -> str:
    return f'[tas]\nurl = "{running.url}"\npins = ["{running.pin}"]\napi_key_file = "{running.api_key_file}"\n'


def held(running: RunningTas, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert tas.main(["audit", "heads", "--state", str(running.state), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def await_heads(daemon: Daemon, wanted: str) -> None:
    awaited(lambda: daemon.status()["service"], lambda service: service["heads"] == wanted)


def await_next_second(statement: Statement) -> None:
    """A log that is made anew is found out by one number with two heads, or by a later statement with a lower one."""
    awaited(lambda: time.time() >= statement.created.timestamp() + 1)


def own(daemon: Daemon) -> Statement:
    return Statement.from_json(daemon.request("GET", "/v1/keys").json["keys"][0]["statement"])


def test_heads_are_kept_and_the_log_is_held_against_them(
    machine: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_folder() as folder, service(folder, machine) as running:
        with running_daemon(machine, folder, section(running)) as daemon:
            await_heads(daemon, "kept")
            created = daemon.post("/v1/keys", b'{"name": "app", "use": "jws"}', Content_Type="application/json")
            assert created.status == 201
            awaited(lambda: held(running, capsys), lambda found: found["kept"] == 2)
            statements = [own(daemon), Statement.from_json(created.json["statement"])]
        found = held(running, capsys)
        assert found["alerts"] == 0
        assert {head["statement"] for head in found["heads"]} == {made.digest().hex() for made in statements}
        assert {(head["use"], head["policy_id"]) for head in found["heads"]} == {("bundle", "web"), ("jws", "web")}
        (folder / "heads.json").write_text(json.dumps(found))
        verify = ["audit", "verify", "--folder", str(folder / "audit"), "--tas-heads", str(folder / "heads.json")]
        assert cli.main([*verify, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["tas_heads"]["found"] == 2
        assert "the attestation service has this log's head" in words(folder, capsys)

        shutil.rmtree(folder / "audit")
        await_next_second(statements[-1])
        with running_daemon(machine, folder, section(running)) as daemon:
            await_heads(daemon, "refused")
            assert "another head" in daemon.status()["service"]["head_reason"]
            awaited(lambda: daemon.status()["audit"], lambda audit: audit["last_hour"]["alert"] == 1)
        assert cli.main(verify) == 65
        capsys.readouterr()
        assert held(running, capsys)["alerts"] == 1
        assert tas.main(["audit", "heads", "--state", str(running.state), "--alerts"]) == 0
        assert "ALERT" in capsys.readouterr().out
        assert tas.main(["check", "--state", str(running.state)]) == 0
        assert "1 audit heads contradict earlier ones" in capsys.readouterr().out
        assert "the attestation service has another head" in words(folder, capsys)
        assert running.stop() == 0
        assert [line["verdict"] for line in running.log() if line["event"] == "audit-head"] == ["kept", "kept", "alert"]


def words(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(["audit", "tail", "--folder", str(folder / "audit"), "-n", "100"]) == 0
    return capsys.readouterr().out


def test_a_service_that_knows_the_machine_by_no_policy_refuses_and_signing_goes_on(machine: Simulator) -> None:
    with (
        open_folder() as folder,
        service(folder, machine, "ab" * 48) as running,
        running_daemon(machine, folder, section(running)) as daemon,
    ):
        await_heads(daemon, "refused")
        assert daemon.post("/v1/sign", b"payload").status == 200
        assert "400" in daemon.status()["service"]["head_reason"]


def test_without_a_service_nothing_is_sent(machine: Simulator) -> None:
    with open_folder() as folder, running_daemon(machine, folder) as daemon:
        assert daemon.post("/v1/sign", b"payload").status == 200
        assert daemon.status()["service"]["heads"] == ""
