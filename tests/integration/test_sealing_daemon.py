"""POST /v1/seal and /v1/unseal on a real daemon, whose root a real attestation service releases."""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.client import Client
from agent.core.errors import VerificationError
from agent.core.model import Secret
from agent.daemon.sealapi import OCTETS, SEALED_TYPE
from agent.deadline import Deadline
from agent.sealing import MAX_PLAINTEXT, Sealer
from tests.support.access import rule
from tests.support.daemon import (
    CLI,
    GROUP,
    MEMBER,
    ROOT,
    STRANGER,
    Reply,
    as_user,
    open_folder,
    running_daemon,
    write_config,
)
from tests.support.released import TABLES, World, running_world, tas_table
from tests.support.sealed_vectors import hkdf, info
from tests.support.simulator import Simulator, running_simulator

pytestmark = [pytest.mark.fuse, pytest.mark.root]
OTHER = MEMBER + 1


@pytest.fixture(scope="module", params=["snp", "tdx"])
def world(request: pytest.FixtureRequest, pki_state: Path) -> Iterator[World]:
    with running_world(request.param, pki_state) as running:
        yield running


def refusal(reply: Reply) -> tuple[int, str]:
    assert reply.headers["Content-Type"] == "application/problem+json"
    return reply.status, reply.json["code"]


def as_member(world: World, data: bytes, path: str, uid: int = MEMBER, tmp: str = "body") -> tuple[int, bytes]:
    """The answer to another user of the group."""
    file = world.daemon.folder / tmp
    file.write_bytes(data)
    file.chmod(0o644)
    words = ("--data-binary", f"@{file}", "-H", f"Content-Type: {OCTETS}", f"http://agent{path}")
    return world.daemon.curl(*words, user=as_user(uid, GROUP))


@pytest.mark.parametrize("size", [0, 1, 20_000, MAX_PLAINTEXT])
def test_there_and_back(world: World, size: int) -> None:
    data = os.urandom(size)
    sealed = world.daemon.post("/v1/seal?context=backup", data)
    assert (sealed.status, sealed.headers["Content-Type"]) == (200, SEALED_TYPE)
    assert sealed.headers["Cache-Control"] == "no-store"
    opened = world.daemon.post("/v1/unseal?context=backup", sealed.body, Content_Type=SEALED_TYPE)
    assert (opened.status, opened.headers["Content-Type"], opened.body) == (200, OCTETS, data)
    assert opened.headers["Cache-Control"] == "no-store"
    if size > 16:
        assert data[:16] not in sealed.body


def test_what_stands_in_it_is_the_published_format(world: World) -> None:
    """Opened by other code, by whoever runs the service: it knows the secret that the root is made from."""
    blob = json.loads(world.daemon.post("/v1/seal?context=c", b"data").body)
    root_info = info("sealing-root", b"tas", b"sealing-1")
    root = hkdf(world.service.secret("sealing"), None, root_info, 32)
    made = hkdf(root, bytes.fromhex(blob["salt"]), info("seal", b"data", b"uid-0", b"c"), 44)
    head = json.dumps({name: blob[name] for name in ("root", "salt", "type")}, separators=(",", ":")).encode()
    assert AESGCM(made[:32]).decrypt(made[32:], b64decode(blob["ciphertext"]), head) == b"data"


def test_what_is_sealed_here_opens_for_its_namespace_and_context_only(world: World) -> None:
    status, blob = as_member(world, b"of a member", "/v1/seal?context=c")
    assert status == 200
    assert as_member(world, blob, "/v1/unseal?context=c") == (200, b"of a member")
    assert as_member(world, blob, "/v1/unseal?context=d")[0] == 400
    assert as_member(world, blob, "/v1/unseal")[0] == 400
    status, said = as_member(world, blob, "/v1/unseal?context=c", OTHER)
    assert (status, json.loads(said)["code"]) == (400, "verify.sealed")
    # Root has a namespace of its own, too.
    assert refusal(world.daemon.post("/v1/unseal?context=c", blob)) == (400, "verify.sealed")


def test_changed_and_foreign_bytes(world: World) -> None:
    blob = world.daemon.post("/v1/seal", b"data").body
    document = json.loads(blob)
    for name, value in (("salt", "00" * 32), ("root", "tas:sealing-1:" + "0" * 16), ("ciphertext", "A" * 24)):
        changed = json.dumps({**document, name: value}, sort_keys=True, separators=(",", ":")).encode()
        assert refusal(world.daemon.post("/v1/unseal", changed)) == (400, "verify.sealed")
    for broken, code in ((b"", "format.json"), (blob[:-1], "format.json"), (blob + b" ", "format.canonical")):
        assert refusal(world.daemon.post("/v1/unseal", broken)) == (400, code)


def test_data_is_no_key_and_no_other_root_s(world: World) -> None:
    secret = world.service.secret("sealing")
    ours = Sealer.from_tas(Secret(secret), "sealing-1")
    assert world.daemon.post("/v1/unseal", ours.seal("data", ("uid-0", ""), b"x")).body == b"x"
    for foreign in (
        ours.seal("key", ("uid-0", ""), b"x"),
        ours.seal("data", ("uid-0",), b"x"),
        Sealer.from_tas(Secret(secret), "disk-1").seal("data", ("uid-0", ""), b"x"),
        Sealer.from_snp(Secret(secret)).seal("data", ("uid-0", ""), b"x"),
    ):
        assert refusal(world.daemon.post("/v1/unseal", foreign)) == (400, "verify.sealed")


def test_requests_that_are_not_as_described(world: World) -> None:
    post = world.daemon.post
    assert refusal(post("/v1/seal", bytes(MAX_PLAINTEXT + 1))) == (413, "format.oversized")
    assert refusal(post("/v1/seal?context=%0a")) == (400, "format")
    assert refusal(post("/v1/seal?context=" + "a" * 257)) == (400, "format")
    assert refusal(post("/v1/seal?namespace=shop")) == (400, "usage")
    assert refusal(post("/v1/unseal?context=a&context=a")) == (400, "usage")
    assert refusal(world.daemon.request("GET", "/v1/seal")) == (405, "usage.method")
    assert refusal(post("/v1/unseal", b"x" * (2 << 20))) == (413, "format.oversized")


def test_strangers_get_nothing(world: World) -> None:
    for path in ("/v1/seal", "/v1/unseal"):
        status, said = world.daemon.curl("-d", "x", f"http://agent{path}", user=as_user(STRANGER))
        assert (status, json.loads(said)["code"]) == (403, "denied")


def test_the_status_names_the_root(world: World) -> None:
    root = json.loads(world.daemon.post("/v1/seal", b"one").body)["root"]
    assert world.daemon.status()["sealing"] == {"root": "tas", "id": root, "secrets": 3, "trouble": None}


def test_the_root_is_released_once(world: World) -> None:
    world.daemon.post("/v1/seal", b"one")
    world.daemon.post("/v1/seal", b"two")
    released = [line for line in world.service.log() if line.get("policy") == "sealing-1"]
    assert [line["verdict"] for line in released] == ["released"]


def test_our_own_client(world: World) -> None:
    client, deadline = Client(world.daemon.socket), Deadline(60, "test")
    blob = client.seal(b"data", "a b&c", deadline)
    assert client.unseal(blob, "a b&c", deadline) == b"data"
    with pytest.raises(VerificationError) as caught:
        client.unseal(blob, "", deadline)
    assert caught.value.code == "verify.sealed"


def test_rules_by_context_and_what_the_audit_log_has(pki_state: Path) -> None:
    rules = [
        rule("seals", who={"user": str(MEMBER)}, operations=["seal", "unseal"], contexts="db/*", namespace="shop"),
        rule("reads", who={"user": str(OTHER)}, operations="unseal", namespace="shop"),
    ]
    with running_world("snp", pki_state, rules) as world:
        status, blob = as_member(world, b"data", "/v1/seal?context=db/1")
        assert status == 200
        status, said = as_member(world, b"data", "/v1/seal?context=other")
        assert (status, json.loads(said)["code"]) == (403, "denied.policy")
        # Who shares the namespace reads it, and may not write.
        assert as_member(world, blob, "/v1/unseal?context=db/1", OTHER) == (200, b"data")
        assert as_member(world, b"data", "/v1/seal?context=db/1", OTHER)[0] == 403
        assert as_member(world, blob, "/v1/unseal?context=db/2")[0] == 400
        world.daemon.terminate()
        found = {record["kind"]: record for record in world.audit()}
        root = json.loads(blob)["root"]
        assert found["sealing.opened"]["fields"] == {"root": root, "added_root": True}
        for kind, uid in (("data.sealed", MEMBER), ("data.unsealed", OTHER), ("data.refused", MEMBER)):
            record = found[kind]
            assert (record["caller"]["uid"], record["fields"]["root"], record["fields"]["count"]) == (uid, root, 1)
        assert found["data.refused"]["severity"] == "warning"


def test_without_a_root_nothing_is_sealed(simulator: Simulator) -> None:
    with open_folder() as folder, running_daemon(simulator, folder) as daemon:
        for path in ("/v1/seal", "/v1/unseal"):
            assert refusal(daemon.post(path, b"data")) == (409, "config.sealing")
        assert daemon.request("GET", "/v1/secrets").json == {"secrets": []}
        assert refusal(daemon.post("/v1/secrets/db")) == (404, "usage.secret")


def ended(folder: Path, simulator: Simulator, more: str, *words: str) -> tuple[int, str]:
    """Exit status of a command with this configuration, and what it said."""
    config = write_config(folder, simulator, more)
    argv = [*CLI, *words, "--config", str(config)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("tee", "said"), [("tdx", "intel-tdx has no keys"), ("snp", "sev-guest")])
def test_a_derived_root_where_there_is_none_stops_the_start(pki_state: Path, tee: str, said: str) -> None:
    more = 'sev_device = "/dev/none-of-sev-guest"\n[sealing]\nroot = "snp-derived"\n'
    with open_folder() as folder, running_simulator(tee, folder, pki_state) as simulator:
        status, text = ended(folder, simulator, more, "daemon")
    assert status == 69
    assert said in text


@pytest.mark.parametrize("words", [("daemon",), ("config", "check")])
def test_a_volume_s_policy_stops_the_start_and_the_check(simulator: Simulator, words: tuple[str, ...]) -> None:
    with open_folder() as folder:
        (folder / "key").write_text("k" * 64)
        more = tas_table("http://127.0.0.1:1", folder / "key") + TABLES.replace('"db-1"', '"disk-1"')
        status, text = ended(folder, simulator, more, *words)
    assert status == 78
    assert "secrets.db.policy_id: disk-1 is the policy of volume root already" in text


def test_after_a_restart_it_opens_again(pki_state: Path) -> None:
    """Another process, another boot of the agent: the service releases the same root."""
    with running_world("snp", pki_state) as world:
        blob = world.daemon.post("/v1/seal", b"kept").body
        assert world.daemon.terminate() == 0
        more = tas_table(world.service.url, world.service.api_key_file, world.service.pin) + TABLES
        with running_daemon(world.simulator, world.daemon.folder, more) as again:
            assert again.post("/v1/unseal", blob).body == b"kept"
