"""The audit log of a real daemon: who did what to which key, a chain over kill -9, and a log that can't be written."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.auditlog import last
from agent.core.statement import Statement
from tests.support.auditlogs import told, verify
from tests.support.daemon import STOP_SECONDS, STRANGER, Daemon, as_user, open_folder, running_daemon
from tests.support.simulator import Simulator, running_simulator
from tests.support.waiting import awaited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starts roles as other users")


@pytest.fixture(scope="module")
def machine(pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as simulator:
        yield simulator


@pytest.fixture
def place(machine: Simulator) -> Iterator[tuple[Simulator, Path]]:
    with open_folder() as folder:
        yield machine, folder


def create(daemon: Daemon, name: str) -> Any:
    document = {"name": name, "use": "bundle"}
    return daemon.post("/v1/keys", json.dumps(document).encode(), Content_Type="application/json")


def kinds(daemon: Daemon) -> list[str]:
    return [kind for kind, _ in told(daemon.folder / "audit", bytes.fromhex(daemon.status()["audit"]["head"]))]


def require_order(folder: Path, document: Any, kind: str) -> None:
    """The line that a statement names is in the log; the record about the key follows it, with what was told between."""
    statement = Statement.from_json(document)
    assert statement.audit
    named = verify(folder, bytes.fromhex(statement.audit.head)).head
    assert named.seq - named.after == statement.audit.seq
    digest = statement.digest().hex()
    records = [line.record for line in last(folder, 1000) if line.record]
    about = [record.seq for record in records if record.kind == kind and record.fields["statement"] == digest]
    assert len(about) == 1
    assert about[0] > statement.audit.seq


def test_key_events_signatures_and_denials_are_told(place: tuple[Simulator, Path]) -> None:
    simulator, folder = place
    with running_daemon(simulator, folder) as daemon:
        made = create(daemon, "app")
        assert made.status == 201
        assert daemon.post("/v1/keys/app/sign", b"payload").status == 200
        assert daemon.request("DELETE", "/v1/keys/app").status == 200
        status, _ = daemon.curl("http://agent/v1/status", user=as_user(STRANGER))
        assert status == 403
        expected = {"key.attested", "key.created", "key.destroyed", "denied"}
        awaited(lambda: kinds(daemon), expected.issubset)
        assert daemon.status()["audit"]["trouble"] is None
        assert daemon.status()["audit"]["last_hour"]["warning"] >= 1
        own = daemon.request("GET", "/v1/keys").json["keys"][0]["statement"]
        assert daemon.terminate() == 0
    records = told(folder / "audit")
    require_order(folder / "audit", own, "key.attested")
    require_order(folder / "audit", made.json["statement"], "key.created")
    created = next(fields for kind, fields in records if kind == "key.created")
    assert created["key_id"] == made.json["id"]
    assert len(created["statement"]) == 128
    signed = [fields for kind, fields in records if kind == "key.signed"]
    assert [(fields["key_id"], fields["count"]) for fields in signed] == [(made.json["id"], 1)]


def test_the_chain_goes_on_after_kill_9(place: tuple[Simulator, Path]) -> None:
    simulator, folder = place
    with running_daemon(simulator, folder) as daemon:
        assert create(daemon, "app").status == 201
        head = bytes.fromhex(daemon.status()["audit"]["head"])
        os.kill(daemon.role("signer"), signal.SIGKILL)
        daemon.process.wait(STOP_SECONDS)
    with running_daemon(simulator, folder) as daemon:
        assert kinds(daemon).count("agent.started") == 2
    assert verify(folder / "audit", head).head.after > 0


def test_without_a_log_keys_stay_as_they_are_and_signing_goes_on(place: tuple[Simulator, Path]) -> None:
    simulator, folder = place
    (folder / "audit").write_text("in the way")
    with running_daemon(simulator, folder) as daemon:
        refused = create(daemon, "app")
        assert (refused.status, refused.json["code"]) == (503, "server.audit")
        assert daemon.post("/v1/sign", b"payload").status == 200
        assert daemon.status()["audit"]["trouble"]["code"] == "server.audit"
        assert daemon.request("GET", "/v1/keys").json["keys"][0]["statement"]["audit"] is None
