"""A connection that asks the same again and again: each answer is that of the key as it is at that moment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.auditlogs import told
from tests.support.daemon import Connection, Daemon, Reply, open_folder, running_daemon
from tests.support.keys import FORMATS, NAMESPACE, TOKEN, create, document, verifiers
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with (
        open_folder() as folder,
        running_simulator("snp", folder, pki_state) as simulator,
        running_daemon(simulator, folder) as running,
    ):
        yield running


@dataclass
class Asking:
    """One connection, and one path that it asks."""

    connection: Connection
    path: str

    def post(self, data: bytes, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request("POST", self.path, data, named)
        answer = self.connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())


@pytest.fixture
def connection(daemon: Daemon) -> Iterator[Connection]:
    found = Connection(daemon.socket)
    yield found
    found.close()


def signed(daemon: Daemon, key_id: str) -> int:
    """Signatures by this key, as the audit log counts them once the daemon has written what it counted."""
    return sum(
        fields["count"]
        for kind, fields in told(daemon.folder / "audit")
        if kind == "key.signed" and fields["key_id"] == key_id
    )


def counted(daemon: Daemon, use: str) -> int:
    """The same by use, as /metrics has it."""
    text = daemon.request("GET", "/metrics").body.decode()
    found = re.search(rf'^tee_agent_signatures_total\{{use="{use}"\}} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("use", FORMATS)
def test_each_answer_verifies_and_is_counted(daemon: Daemon, connection: Connection, use: str, tmp_path: Path) -> None:
    name, before = f"many-{use}", counted(daemon, use)
    create(daemon, name, use)
    query = f"?context={NAMESPACE}" if use == "ssh" else ""
    asking, kind = Asking(connection, f"/v1/keys/{name}/sign{query}"), "application/json" if use == "eat" else "a/b"
    key = document(daemon, name)
    for number in range(4):
        payload = b"payload %d" % number
        reply = asking.post(TOKEN if use == "eat" else payload, Content_Type=kind)
        assert reply.status == 200, reply.body
        verifiers(daemon, payload, tmp_path)[use](reply.body, key)
    assert counted(daemon, use) == before + 4


@pytest.mark.parametrize("accept", ["", "application/vnd.tee-agent.compact+json"])
def test_bundles_of_the_agents_own_key(daemon: Daemon, connection: Connection, accept: str) -> None:
    asking, before = Asking(connection, "/v1/sign?context=c&audience=a"), counted(daemon, "bundle")
    found = [asking.post(b"payload %d" % number, Accept=accept) for number in range(3)]
    assert [reply.status for reply in found] == [200] * 3
    assert len({reply.headers["Content-Type"] for reply in found}) == 1
    assert len({reply.body for reply in found}) == 3
    assert counted(daemon, "bundle") == before + 3
    if not accept:
        for number, reply in enumerate(found):
            daemon.verify(reply.body, b"payload %d" % number, context="c", audience="a")


def test_a_rotated_key_signs_with_its_new_generation_at_once(daemon: Daemon, connection: Connection) -> None:
    first = create(daemon, "turns", "raw")["id"]
    newest, pinned = Asking(connection, "/v1/keys/turns/sign"), Connection(daemon.socket)
    fixed = Asking(pinned, "/v1/keys/turns/sign?generation=1")
    for _ in range(3):
        assert newest.post(b"x").headers["Tee-Key-Id"] == fixed.post(b"x").headers["Tee-Key-Id"] == first
    second = daemon.post("/v1/keys/turns/rotate").json["id"]
    for _ in range(3):
        assert newest.post(b"x").headers["Tee-Key-Id"] == second != first
        assert fixed.post(b"x").headers["Tee-Key-Id"] == first
    pinned.close()


def test_a_destroyed_key_signs_nothing_more_and_its_name_is_anothers(daemon: Daemon, connection: Connection) -> None:
    create(daemon, "gone", "raw")
    asking = Asking(connection, "/v1/keys/gone/sign")
    assert [asking.post(b"x").status for _ in range(3)] == [200] * 3
    assert daemon.request("DELETE", "/v1/keys/gone").status == 200
    assert asking.post(b"x").json["code"] == "usage.key"
    create(daemon, "gone", "jws")
    for _ in range(2):
        reply = asking.post(b"x")
        assert reply.status == 200
        assert reply.body.count(b".") == 2
        assert reply.headers["Content-Type"] == "application/jose"


def test_the_audit_log_counts_all(simulated: Simulator) -> None:
    with open_folder() as folder, running_daemon(simulated, folder) as daemon:
        key = create(daemon, "sums", "raw")["id"]
        connection = Connection(daemon.socket)
        assert {Asking(connection, "/v1/keys/sums/sign").post(b"x").status for _ in range(50)} == {200}
        connection.close()
        assert daemon.terminate() == 0
        assert signed(daemon, key) == 50


@pytest.fixture(scope="module")
def simulated(pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running
