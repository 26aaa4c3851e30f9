"""Named keys over the socket: every algorithm for every use, one use and no other, rotated and destroyed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core import sshsig
from agent.core.algorithm import ALGORITHMS
from agent.core.errors import TeeAgentError
from agent.daemon.api import DIGEST_TYPE
from agent.verify.cose import verify_cose
from agent.verify.eat import verify_eat
from agent.verify.jws import verify_jws
from agent.verify.keydoc import verify_key
from agent.verify.ssh import verify_ssh
from tests.support import keys
from tests.support.daemon import Daemon, open_folder, running_daemon
from tests.support.keys import FORMATS, create, document, refused, sign
from tests.support.simulator import running_simulator

pytestmark = pytest.mark.fuse
PAYLOAD = b"what was to be signed\n"


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with (
        open_folder() as folder,
        running_simulator("snp", folder, pki_state) as simulator,
        running_daemon(simulator, folder, audience="rp.example", keys_each_max=60) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def made(daemon: Daemon) -> dict[str, str]:
    """A key of each use, by use."""
    for use in FORMATS:
        create(daemon, f"one-{use}", use)
    return {use: f"one-{use}" for use in FORMATS}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("use", FORMATS)
def test_every_algorithm_signs_for_every_use(daemon: Daemon, use: str, algorithm: str, tmp_path: Path) -> None:
    name = f"{use}-{algorithm.lower()}"
    if (use, algorithm) == ("ssh", "ECDSA-secp256k1"):
        refused(
            daemon.post(
                "/v1/keys",
                json.dumps({"name": name, "use": use, "algorithm": algorithm}).encode(),
                Content_Type="application/json",
            ),
            400,
            "usage",
        )
        return
    said = create(daemon, name, use, algorithm)
    assert (said["algorithm"], said["use"], said["statement"]["owner"]) == (algorithm, use, "uid-0")
    reply = sign(daemon, name, use, PAYLOAD)
    key = document(daemon, name)
    assert (reply.status, reply.headers["Tee-Key-Id"]) == (200, said["id"])
    keys.verifiers(daemon, PAYLOAD, tmp_path)[use](reply.body, key)
    verdict = verify_key(key, keys.judge(daemon), use=use)
    assert verdict.attachments.key_sha256.hex() == said["id"]
    assert daemon.request("DELETE", f"/v1/keys/{name}").status == 200


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("use", FORMATS)
def test_a_key_signs_for_its_use_only(daemon: Daemon, made: dict[str, str], use: str, format_: str) -> None:
    """The agent refuses, and so does every verifier, each pair of uses."""
    reply = sign(daemon, made[use], format_, PAYLOAD, f"?format={format_}")
    if use == format_:
        assert reply.status == 200
        return
    refused(reply, 409, "usage.key-use")
    assert use in reply.json["detail"]


@pytest.mark.parametrize("use", FORMATS)
def test_what_one_use_signed_passes_for_no_other(
    daemon: Daemon, made: dict[str, str], use: str, tmp_path: Path
) -> None:
    signed, key = sign(daemon, made[use], use, PAYLOAD).body, document(daemon, made[use])
    for name, verify in keys.verifiers(daemon, PAYLOAD, tmp_path).items():
        if name == use:
            verify(signed, key)
        else:
            with pytest.raises((TeeAgentError, subprocess.CalledProcessError)):
                verify(signed, key)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "usage"),
        ("?context=", "usage"),
        ("?context=ssh-auth", "format"),
        ("?context=" + "x" * 257, "format.oversized"),
        ("?context=file&audience=x", "usage"),
        ("?context=file&typ=JWT", "usage"),
    ],
)
def test_ssh_signatures_have_a_namespace(daemon: Daemon, made: dict[str, str], query: str, code: str) -> None:
    reply = daemon.post(f"/v1/keys/{made['ssh']}/sign{query}", PAYLOAD)
    assert (reply.status, reply.json["code"].partition(".")[0]) == (400, code.partition(".")[0])


def test_ssh_by_digest_and_as_the_list_shows_it(daemon: Daemon, made: dict[str, str]) -> None:
    path, said = (
        f"/v1/keys/{made['ssh']}",
        {"alg": "sha-512", "digest": hashlib.sha512(PAYLOAD).hexdigest(), "size": 22},
    )
    reply = daemon.post(f"{path}/sign?context=file", json.dumps(said).encode(), Content_Type=DIGEST_TYPE)
    assert reply.headers["Content-Type"] == sshsig.MEDIA_TYPE
    verdict = verify_ssh(reply.body, document(daemon, made["ssh"]), keys.judge(daemon), payload=[PAYLOAD])
    shown = daemon.request("GET", path).json
    assert shown["ssh"] == f"{verdict.said['ssh']} uid-0/{made['ssh']}#1 {shown['id']}"
    assert "ssh" not in daemon.request("GET", f"/v1/keys/{made['jws']}").json


@pytest.mark.parametrize("algorithm", ["ECDSA-P256", "ECDSA-P384", "ECDSA-secp256k1"])
def test_raw_by_digest(daemon: Daemon, algorithm: str, tmp_path: Path) -> None:
    name = f"digest-{algorithm.lower()}"
    create(daemon, name, "raw", algorithm)
    hash_ = ALGORITHMS[algorithm].hash
    digest = hashlib.new(hash_.replace("-", ""), PAYLOAD).hexdigest()
    said = {"alg": hash_, "digest": digest, "size": len(PAYLOAD)}
    path = f"/v1/keys/{name}/sign"
    reply = daemon.post(path, json.dumps(said).encode(), Content_Type=DIGEST_TYPE)
    keys.openssl(reply.body, document(daemon, name), PAYLOAD, tmp_path)
    for bad in ({**said, "alg": "sha-512"}, {**said, "digest": digest[2:]}, {**said, "size": -1}, {}):
        refused(daemon.post(path, json.dumps(bad).encode(), Content_Type=DIGEST_TYPE), 400, "format")


@pytest.mark.parametrize("use", ["raw", "jws", "cose"])
def test_what_must_be_whole_is_bounded(daemon: Daemon, made: dict[str, str], use: str) -> None:
    path = f"/v1/keys/{made[use]}/sign"
    assert daemon.post(path, bytes(1 << 20)).status == 200
    refused(daemon.post(path, bytes((1 << 20) + 1)), 413, "format.oversized")
    said = {"alg": "sha-512", "digest": "00" * 64, "size": 1}
    refused(daemon.post(path, json.dumps(said).encode(), Content_Type=DIGEST_TYPE), 400, "format")


def peak(daemon: Daemon) -> int:
    """KiB of memory that the signer ever had."""
    lines = Path(f"/proc/{daemon.role('signer')}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@pytest.mark.parametrize(("use", "algorithm"), [("bundle", "ECDSA-P384"), ("raw", "ECDSA-P256")])
def test_large_payloads_take_no_memory(daemon: Daemon, tmp_path: Path, use: str, algorithm: str) -> None:
    create(daemon, f"large-{use}", use, algorithm)
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * 96)
    sign(daemon, f"large-{use}", use, bytes(1 << 20))
    before = peak(daemon)
    status, signed = daemon.curl("-T", str(tmp_path / "large"), "-X", "POST", f"http://agent/v1/keys/large-{use}/sign")
    assert status == 200
    assert peak(daemon) - before < 8192
    payload = (tmp_path / "large").read_bytes()
    keys.verifiers(daemon, payload, tmp_path)[use](signed, document(daemon, f"large-{use}"))


def test_context_audience_and_options(daemon: Daemon, made: dict[str, str]) -> None:
    query = "?context=a%20b&audience=x"
    bundle = sign(daemon, made["bundle"], "bundle", PAYLOAD, query)
    daemon.verify(bundle.body, PAYLOAD, context="a b", audience="x")
    asked = keys.judge(daemon)
    jws = sign(daemon, made["jws"], "jws", PAYLOAD, f"{query}&typ=JWT")
    verify_jws(jws.body, document(daemon, made["jws"]), asked, context="a b", audience="x")
    cose = sign(daemon, made["cose"], "cose", PAYLOAD, f"{query}&detached=true&content_type=text/plain")
    assert PAYLOAD not in cose.body
    verify_cose(cose.body, document(daemon, made["cose"]), asked, payload=PAYLOAD, context="a b", audience="x")
    said = json.dumps({"nonce": keys.NONCE.hex(), "form": "cbor", "lifetime_seconds": 60}).encode()
    token = daemon.post(f"/v1/keys/{made['eat']}/sign?audience=x", said, Content_Type="application/json")
    assert token.headers["Content-Type"] == "application/eat+cwt"
    verify_eat(token.body, asked, nonce=keys.NONCE, audience="x")
    for use, bad in (
        ("raw", "?context=a"),
        ("bundle", "?typ=JWT"),
        ("jws", "?detached=true"),
        ("cose", "?detached=yes"),
        ("eat", "?context=a"),
    ):
        refused(sign(daemon, made[use], use, PAYLOAD, bad), 400, "usage")


def test_rotation_and_destruction(daemon: Daemon, tmp_path: Path) -> None:
    first = create(daemon, "turning", "raw", lifetime_seconds=7200)
    assert first["ends"] == first["statement"]["expires"]
    old_document = document(daemon, "turning")
    second = daemon.post("/v1/keys/turning/rotate").json
    assert (second["generation"], second["newest"], first["id"] != second["id"]) == (2, True, True)
    newest, older = sign(daemon, "turning", "raw", PAYLOAD), sign(daemon, "turning", "raw", PAYLOAD, "?generation=1")
    assert (newest.headers["Tee-Key-Id"], older.headers["Tee-Key-Id"]) == (second["id"], first["id"])
    keys.openssl(older.body, old_document, PAYLOAD, tmp_path)
    with pytest.raises(subprocess.CalledProcessError):
        keys.openssl(newest.body, old_document, PAYLOAD, tmp_path)
    said = json.dumps({"overlap_seconds": 0}).encode()
    third = daemon.post("/v1/keys/turning/rotate", said, Content_Type="application/json").json
    refused(sign(daemon, "turning", "raw", PAYLOAD, "?generation=2"), 404, "usage.key")
    listed = [key for key in daemon.request("GET", "/v1/keys").json["keys"] if key.get("name") == "turning"]
    assert [(key["generation"], key["id"]) for key in listed] == [(1, first["id"]), (3, third["id"])]
    assert daemon.request("GET", "/v1/keys/turning?generation=1").json["id"] == first["id"]
    assert daemon.request("DELETE", "/v1/keys/turning").json == {"destroyed": "uid-0/turning"}
    for reply in (
        daemon.request("GET", "/v1/keys/turning"),
        daemon.request("DELETE", "/v1/keys/turning"),
        daemon.request("GET", "/v1/keys/turning/attestation"),
        daemon.post("/v1/keys/turning/rotate"),
        sign(daemon, "turning", "raw", PAYLOAD),
        sign(daemon, "turning", "raw", PAYLOAD, "?generation=1"),
    ):
        refused(reply, 404, "usage.key")
