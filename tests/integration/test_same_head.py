"""A connection that asks the same again and again: each answer is that of the key as it is at that moment."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.daemon.payloads import DIGEST_TYPE
from tests.support.auditlogs import told
from tests.support.daemon import Daemon, Reply, dial, open_folder, running_daemon
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

    sock: socket.socket
    path: str

    def post(self, data: bytes, **headers: str) -> Reply:
        """Head and body in one piece, as the short way wants them."""
        named = {"Host": "agent", "Content-Length": str(len(data)), **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items())
        self.sock.sendall(f"POST {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + data)
        with http.client.HTTPResponse(self.sock, method="POST") as answer:
            answer.begin()
            return Reply(answer.status, answer.headers, answer.read())


@pytest.fixture
def sock(daemon: Daemon) -> Iterator[socket.socket]:
    with dial(daemon.socket) as found:
        yield found


def signed(daemon: Daemon, key_id: str) -> int:
    """Signatures by this key, as the audit log counts them once the daemon has written what it counted."""
    return sum(
        fields["count"]
        for kind, fields in told(daemon.folder / "audit")
        if kind == "key.signed" and fields["key_id"] == key_id
    )


def counted(daemon: Daemon, use: str) -> tuple[int, int]:
    """Signatures by keys for this use, and requests to sign, as /metrics has them."""
    text = daemon.request("GET", "/metrics").body.decode()
    lines = (f'tee_agent_signatures_total{{use="{use}"}}', 'tee_agent_requests_total{operation="sign"}')
    found = [re.search(rf"^{re.escape(line)} (\d+)", text, re.MULTILINE) for line in lines]
    return int(found[0][1]) if found[0] else 0, int(found[1][1]) if found[1] else 0


@pytest.mark.parametrize("use", FORMATS)
def test_each_answer_verifies_and_is_counted(daemon: Daemon, sock: socket.socket, use: str, tmp_path: Path) -> None:
    name, before = f"many-{use}", counted(daemon, use)
    create(daemon, name, use)
    query = f"?context={NAMESPACE}" if use == "ssh" else ""
    asking, kind = Asking(sock, f"/v1/keys/{name}/sign{query}"), "application/json" if use == "eat" else "a/b"
    key = document(daemon, name)
    for number in range(4):
        payload = b"payload %d" % number
        reply = asking.post(TOKEN if use == "eat" else payload, Content_Type=kind)
        assert reply.status == 200, reply.body
        verifiers(daemon, payload, tmp_path)[use](reply.body, key)
    assert counted(daemon, use) == (before[0] + 4, before[1] + 4)


@pytest.mark.parametrize("accept", ["", "application/vnd.tee-agent.compact+json"])
def test_bundles_of_the_agents_own_key(daemon: Daemon, sock: socket.socket, accept: str) -> None:
    asking, before = Asking(sock, "/v1/sign?context=c&audience=a"), counted(daemon, "bundle")
    found = [asking.post(b"payload %d" % number, Accept=accept) for number in range(3)]
    assert [reply.status for reply in found] == [200] * 3
    assert len({reply.headers["Content-Type"] for reply in found}) == 1
    assert len({reply.body for reply in found}) == 3
    assert counted(daemon, "bundle") == (before[0] + 3, before[1] + 3)
    if not accept:
        for number, reply in enumerate(found):
            daemon.verify(reply.body, b"payload %d" % number, context="c", audience="a")


def test_a_rotated_key_signs_with_its_new_generation_at_once(daemon: Daemon, sock: socket.socket) -> None:
    first = create(daemon, "turns", "raw")["id"]
    newest = Asking(sock, "/v1/keys/turns/sign")
    with dial(daemon.socket) as pinned:
        fixed = Asking(pinned, "/v1/keys/turns/sign?generation=1")
        for _ in range(3):
            assert newest.post(b"x").headers["Tee-Key-Id"] == fixed.post(b"x").headers["Tee-Key-Id"] == first
        second = daemon.post("/v1/keys/turns/rotate").json["id"]
        for _ in range(3):
            assert newest.post(b"x").headers["Tee-Key-Id"] == second != first
            assert fixed.post(b"x").headers["Tee-Key-Id"] == first


def test_a_destroyed_key_signs_nothing_more_and_its_name_is_anothers(daemon: Daemon, sock: socket.socket) -> None:
    create(daemon, "gone", "raw")
    asking = Asking(sock, "/v1/keys/gone/sign")
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
        with dial(daemon.socket) as found:
            assert {Asking(found, "/v1/keys/sums/sign").post(b"x").status for _ in range(50)} == {200}
        assert daemon.terminate() == 0
        assert signed(daemon, key) == 50


@pytest.fixture(scope="module")
def simulated(pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.mark.parametrize("where", ["/v1/sign", "/v1/keys/digests/sign"])
def test_a_digest_is_read_as_one_each_time(daemon: Daemon, sock: socket.socket, where: str) -> None:
    if "keys" in where:
        create(daemon, "digests", "bundle")
    for payload in (b"one", b"two", b"six"):
        said = json.dumps({"alg": "sha-512", "digest": hashlib.sha512(payload).hexdigest(), "size": 3}).encode()
        reply = Asking(sock, where).post(said, Content_Type=DIGEST_TYPE)
        daemon.verify(reply.body, payload)
