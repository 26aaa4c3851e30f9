"""Named keys from the command line, under rules of the access policy, and while the quoter comes and goes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agent.verify.eat import verify_eat
from agent.verify.jws import verify_jws
from agent.verify.keydoc import verify_key
from tests.support import keys
from tests.support.daemon import (
    CLI,
    MEMBER,
    ROLES,
    ROOT,
    STOP_SECONDS,
    Daemon,
    as_user,
    await_ready,
    open_folder,
    running_daemon,
    start,
    write_config,
)
from tests.support.keys import create, document, sign
from tests.support.simulator import Simulator, running_simulator
from tests.support.waiting import awaited

pytestmark = pytest.mark.fuse
PAYLOAD = b"what was to be signed\n"
RULES = f"""
[[rule]]
name = "app"
effect = "allow"
who.user = "{MEMBER}"
operations = "sign"
keys = "uid-0/shared"
formats = "jws"
contexts = "orders"

[[rule]]
name = "app-attests"
effect = "allow"
who.user = "{MEMBER}"
operations = "keys.list"
keys = "uid-0/shared"

[[rule]]
name = "nothing-else"
effect = "deny"
who.user = "{MEMBER}"
operations = ["sign", "keys.create"]
"""


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    with open_folder() as folder:
        (folder / "policy.d").mkdir(mode=0o755)
        (folder / "policy.d" / "app.toml").write_text(RULES)
        with running_daemon(simulator, folder, keys_max=6, keys_each_max=4) as running:
            yield running


def cli(daemon: Daemon, *words: str, status: int = 0) -> bytes:
    argv = [*CLI, words[0], "--config", str(daemon.config), *words[1:]]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


def test_the_command_line_does_it_all(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(PAYLOAD)
    said = json.loads(cli(daemon, "keys", "create", "orders", "--use", "jws", "--algorithm", "ECDSA-P256", "--json"))
    assert (said["name"], said["generation"], said["ends"]) == ("orders", 1, None)
    assert (
        f"uid-0/orders#1 ECDSA-P256 jws {said['id']} memory until the agent stops"
        in cli(daemon, "keys", "list").decode()
    )
    assert "owner: uid-0" in cli(daemon, "keys", "show", "orders").decode()
    cli(daemon, "keys", "attest", "orders", "-o", str(tmp_path / "orders.key"))
    words = ["sign", "--key", "orders", str(tmp_path / "payload"), "--context", "c"]
    cli(daemon, *words, "-o", str(tmp_path / "orders.jws"))
    key = (tmp_path / "orders.key").read_bytes()
    verify_key(key, keys.judge(daemon), use="jws")
    verify_jws((tmp_path / "orders.jws").read_bytes(), key, keys.judge(daemon), payload=PAYLOAD, context="c")
    cli(daemon, *words, "--format", "bundle", status=64)
    assert b"#2" in cli(daemon, "keys", "rotate", "orders", "--overlap", "60")
    cli(daemon, *words, "--generation", "1")
    assert cli(daemon, "keys", "destroy", "orders") == b"destroyed uid-0/orders\n"
    cli(daemon, "keys", "show", "orders", status=64)
    cli(daemon, *words, status=64)


def test_tokens_from_the_command_line(daemon: Daemon) -> None:
    cli(daemon, "keys", "create", "tokens", "--use", "eat", "--lifetime", "3600", "--quiet")
    words = ["sign", "--key", "tokens", "--format", "eat"]
    for form in ("json", "cbor"):
        token = cli(daemon, *words, "--nonce", keys.NONCE.hex(), "--form", form, "--audience", "x")
        verify_eat(token, keys.judge(daemon), nonce=keys.NONCE, audience="x")
    for wrong in ([], ["--nonce", keys.NONCE.hex(), "file"], ["file"]):
        cli(daemon, *words, *wrong, status=64)
    cli(daemon, "keys", "destroy", "tokens")


@pytest.mark.parametrize(
    "words",
    [["file", "--format", "jws"], ["file", "--generation", "1"], ["--key", "x", "file", "--nonce", "ab" * 16], []],
)
def test_command_lines_without_sense(daemon: Daemon, words: list[str]) -> None:
    cli(daemon, "sign", *words, status=64)


def test_limits_are_told(daemon: Daemon) -> None:
    for index in range(4):
        create(daemon, f"many-{index}", "raw")
    said = json.dumps({"name": "one-more", "use": "raw"}).encode()
    reply = daemon.post("/v1/keys", said, Content_Type="application/json")
    assert (reply.status, reply.json["code"]) == (409, "conflict.limit")
    assert "keys_each_max" in reply.json["hint"]
    for index in range(4):
        assert daemon.request("DELETE", f"/v1/keys/many-{index}").status == 200


def test_rules_reach_every_route(daemon: Daemon) -> None:
    """A key of root's that one user may use, for one format in one context: and nothing else of it."""
    create(daemon, "shared", "jws")

    def ask(method: str, path: str, *more: str) -> tuple[int, Any]:
        status, body = daemon.curl("-X", method, *more, f"http://agent{path}", user=as_user(MEMBER))
        return status, json.loads(body)["code"] if status >= 400 else body

    where = "namespace=uid-0"
    status, jws = ask("POST", f"/v1/keys/shared/sign?{where}&context=orders", "--data-binary", "x")
    assert status == 200
    _, key = ask("GET", f"/v1/keys/shared/attestation?{where}")
    verify_jws(jws, key, keys.judge(daemon), payload=b"x", context="orders")
    for method, path in (
        ("POST", f"/v1/keys/shared/sign?{where}"),
        ("POST", f"/v1/keys/shared/sign?{where}&context=other"),
        ("POST", f"/v1/keys/shared/sign?{where}&context=orders&format=bundle"),
        ("POST", "/v1/sign?context=orders"),
        ("POST", f"/v1/keys/shared/rotate?{where}"),
        ("DELETE", f"/v1/keys/shared?{where}"),
        ("GET", f"/v1/keys/tokens?{where}"),
        ("GET", "/v1/status"),
    ):
        assert ask(method, path) == (403, "denied.policy"), path
    created = ask("POST", "/v1/keys", "--json", json.dumps({"name": "mine", "use": "raw"}))
    assert created == (403, "denied.policy")
    assert daemon.request("DELETE", "/v1/keys/shared").status == 200


def test_the_audit_log_has_it(daemon: Daemon) -> None:
    """One record for each change, signatures counted, and who was refused; the status has the head."""
    key = create(daemon, "watched", "raw")
    for _ in range(3):
        assert sign(daemon, "watched", "raw", PAYLOAD).status == 200
    newer = daemon.post("/v1/keys/watched/rotate").json
    daemon.curl("http://agent/v1/status", user=as_user(64109))
    assert daemon.request("DELETE", "/v1/keys/watched").status == 200
    found = awaited(
        lambda: audited(daemon),
        lambda records: signatures(records, key["id"]) == 3 and denied(records, 64109),
    )
    mine = [record for record in found if record["fields"].get("key") == "uid-0/watched"]
    assert [(record["kind"], record["fields"]["key_id"]) for record in mine] == [
        ("key.created", key["id"]),
        ("key.rotated", newer["id"]),
        ("key.destroyed", newer["id"]),
    ]
    assert {record["caller"]["uid"] for record in mine} == {0}
    assert daemon.status()["audit"]["trouble"] is None


def audited(daemon: Daemon) -> list[dict[str, Any]]:
    """Its audit log's whole lines: the last may be being written."""
    lines = (daemon.folder / "audit" / "audit.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def signatures(records: list[dict[str, Any]], key_id: str) -> int:
    signed = [record["fields"] for record in records if record["kind"] == "key.signed"]
    return sum(fields["count"] for fields in signed if fields["key_id"] == key_id)


def denied(records: list[dict[str, Any]], uid: int) -> bool:
    return any(record["kind"] == "denied" and record["caller"]["uid"] == uid for record in records)


def test_while_the_quoter_is_gone(simulator: Simulator) -> None:
    """No new keys then, and no half ones; those that exist go on signing."""
    with open_folder() as folder, ExitStack() as stack:
        config = write_config(folder, simulator)

        def role(name: str) -> subprocess.Popen[bytes]:
            process, ear = start(folder, "daemon", "--role", name, "--config", str(config))
            stack.callback(ended, process, ear)
            await_ready(ear, process, folder)
            return process

        processes = {name: role(name) for name in ROLES}
        daemon = Daemon(folder, simulator, processes["signer"])
        create(daemon, "before", "jws")
        os.kill(processes["quoter"].pid, signal.SIGKILL)
        processes["quoter"].wait(STOP_SECONDS)
        said = json.dumps({"name": "during", "use": "raw"}).encode()
        for path, body in (("/v1/keys", said), ("/v1/keys/before/rotate", b"{}")):
            reply = daemon.post(path, body, Content_Type="application/json")
            assert (reply.status, reply.json["code"]) == (503, "transport"), reply.body
        listed = [key["name"] for key in daemon.request("GET", "/v1/keys").json["keys"] if "name" in key]
        assert listed == ["before"]
        signed = sign(daemon, "before", "jws", PAYLOAD).body
        role("quoter")
        create(daemon, "during", "raw")
        verify_jws(signed, document(daemon, "before"), keys.judge(daemon), payload=PAYLOAD)


def ended(process: subprocess.Popen[bytes], ear: socket.socket) -> None:
    ear.close()
    process.terminate()
    process.wait(STOP_SECONDS)
