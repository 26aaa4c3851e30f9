"""The one-file client as an application has it: copied elsewhere, alone, against the real agent."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.daemon import STRANGER, Daemon, as_user, open_folder, running_daemon
from tests.support.simulator import running_simulator

pytestmark = pytest.mark.fuse
ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "agent/tee_agent_client.py"


@pytest.fixture(scope="module")
def client() -> Any:
    """The module, loaded from its file alone."""
    return SimpleNamespace(**runpy.run_path(str(FILE)))


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with (
        open_folder() as folder,
        running_simulator("snp", folder, pki_state) as simulator,
        running_daemon(simulator, folder, audience="rp.example", keys_each_max=60) as running,
    ):
        yield running


@pytest.fixture
def agent(client: Any, daemon: Daemon) -> Iterator[Any]:
    with client.Agent(daemon.socket) as found:
        yield found


def test_it_needs_nothing_but_python(daemon: Daemon) -> None:
    with open_folder() as folder:
        shutil.copy(FILE, folder)
        code = f"""
import sys
sys.path.insert(0, {str(folder)!r})
import tee_agent_client
with tee_agent_client.Agent({str(daemon.socket)!r}) as agent:
    print(agent.status()["ready"])
print([name for name in sys.modules if name.split(".")[0] in ("agent", "cryptography", "rfc8785", "asyncio")])
"""
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
    assert done.stdout == "True\n[]\n"


@pytest.mark.parametrize("form", ["bytes", "path", "file", "chunks"])
def test_a_payload_in_every_form(daemon: Daemon, agent: Any, tmp_path: Path, form: str) -> None:
    payload = os.urandom(700_000)
    path = tmp_path / "payload"
    path.write_bytes(payload)
    with path.open("rb") as file:
        forms: dict[str, Any] = {
            "bytes": payload,
            "path": path,
            "file": file,
            "chunks": iter([payload[:10], payload[10:]]),
        }
        bundle = agent.sign(forms[form], context="c", audience="a")
    # Raises unless it is the signature over this payload.
    daemon.verify(bundle, payload, context="c", audience="a")


def test_one_connection_serves_all(daemon: Daemon, agent: Any) -> None:
    agent.status()
    first = agent._connection.sock
    agent.sign(b"x")
    assert agent._connection.sock is first


def test_it_comes_back_after_the_agent_hung_up(daemon: Daemon, agent: Any) -> None:
    agent.status()
    # As after an idle time: the other end is gone while nothing is under way.
    agent._connection.sock.shutdown(2)
    assert agent.status()["ready"]


def test_a_key_from_birth_to_end(daemon: Daemon, client: Any, agent: Any) -> None:
    made = agent.create_key("orders", "jws", algorithm="ECDSA-P256", lifetime_seconds=3600)
    assert made["name"] == "orders"
    token = agent.sign(b"{}", key="orders", context="c")
    assert token.count(b".") == 2
    document = json.loads(agent.attestation("orders"))
    assert document["statement"]["use"] == "jws"
    assert agent.rotate_key("orders")["generation"] == 2
    assert agent.key("orders", generation="1")["newest"] is False
    assert {key.get("name") for key in agent.list_keys()} >= {None, "orders"}
    agent.destroy_key("orders")
    with pytest.raises(client.AgentError) as caught:
        agent.key("orders")
    assert (caught.value.status, caught.value.code) == (404, "usage.key")


def test_a_challenge_has_the_nonce(agent: Any) -> None:
    nonce = os.urandom(32)
    digest = hashlib.sha512(b"p").hexdigest()
    bundle = json.loads(agent.challenge(nonce, context="c", payload={"alg": "sha-512", "digest": digest, "size": 1}))
    assert (bundle["fresh"]["nonce"], bundle["payload"]["digest"]) == (nonce.hex(), digest)


def test_a_verdict_that_says_no_is_an_error_that_has_it(client: Any, agent: Any) -> None:
    """The simulator's root is no vendor's."""
    with pytest.raises(client.AgentError) as caught:
        agent.verify(agent.sign(b"x"), any_workload=True)
    assert (caught.value.status, caught.value.code) == (422, "verify.untrusted-root")
    assert caught.value.verdict["checks"][-1]["ok"] is False


def test_a_refusal_has_code_and_hint(client: Any, agent: Any) -> None:
    with pytest.raises(client.AgentError) as caught:
        agent.sign(b"x", context="c" * 300)
    assert (caught.value.status, caught.value.code) == (400, "format")
    assert agent.status()["ready"]


def test_a_large_payload_that_is_refused_has_its_reason(client: Any, agent: Any) -> None:
    agent.create_key("small", "jws")
    with pytest.raises(client.AgentError) as caught:
        agent.sign((b"x" * 65_536 for _ in range(400)), key="small")
    assert caught.value.code == "format.oversized"


def test_nobody_there(client: Any, tmp_path: Path) -> None:
    with pytest.raises(client.Unreachable) as caught:
        client.Agent(tmp_path / "agent.sock").status()
    assert caught.value.code == "transport"
    assert "systemctl status" in str(caught.value)


def test_a_stranger_is_told_so(daemon: Daemon) -> None:
    code = f"""
import runpy
m = runpy.run_path({str(FILE)!r})
try:
    m["Agent"]({str(daemon.socket)!r}).sign(b"x" * 1000000)
except m["AgentError"] as error:
    print(error.status, error.code)
"""
    with open_folder() as folder:
        (folder / "app.py").write_text(code.replace(str(FILE), str(shutil.copy(FILE, folder))))
        words = [*as_user(STRANGER), "/usr/bin/python3", "-I", "-S", str(folder / "app.py")]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "403 denied\n"


def test_threads_take_turns(daemon: Daemon, agent: Any) -> None:
    made: list[tuple[bytes, bytes]] = []

    def work(number: int) -> None:
        for count in range(5):
            payload = b"%d/%d" % (number, count)
            made.append((payload, agent.sign(payload)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 20
    for payload, bundle in made:
        daemon.verify(bundle, payload)


def test_an_answer_without_end_is_cut(client: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                try:
                    while True:
                        connection.sendall(b"x" * 65_536)
                except OSError:
                    return

        thread = threading.Thread(target=talk)
        thread.start()
        with client.Agent(tmp_path / "s") as agent, pytest.raises(client.Unreachable, match="more than"):
            agent.status()
        thread.join(30)
        assert not thread.is_alive()
