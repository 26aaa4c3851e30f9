"""Named keys over a running daemon's socket: made, used, and what they made judged as a relying party would."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.core.keydoc import decode
from agent.verify.cose import verify_cose
from agent.verify.eat import verify_eat
from agent.verify.evidence import genuine_anchors
from agent.verify.jws import verify_jws
from agent.verify.signed import Judge
from agent.verify.ssh import verify_ssh
from agent.verify.workload import Workload
from tests.support.daemon import Daemon, Reply

NONCE = bytes(range(100, 132))
TOKEN = json.dumps({"nonce": NONCE.hex()}).encode()
FORMATS = ("bundle", "raw", "jws", "cose", "eat", "ssh")
NAMESPACE = "file"
"""Of ssh signatures."""


def create(daemon: Daemon, name: str, use: str, algorithm: str = "Ed25519", **more: Any) -> dict[str, Any]:
    """A new key's description."""
    said = {"name": name, "use": use, "algorithm": algorithm, **more}
    reply = daemon.post("/v1/keys", json.dumps(said).encode(), Content_Type="application/json")
    assert reply.status == 201, reply.body
    found: dict[str, Any] = reply.json
    return found


def sign(daemon: Daemon, name: str, use: str, payload: bytes, query: str = "") -> Reply:
    """What the key makes of ``payload``; of a nonce where it makes tokens."""
    path = f"/v1/keys/{name}/sign{query}"
    if use == "ssh":
        path += f"{'&' if query else '?'}context={NAMESPACE}"
    if use == "eat":
        return daemon.post(path, TOKEN, Content_Type="application/json")
    return daemon.post(path, payload, Content_Type="application/octet-stream")


def document(daemon: Daemon, name: str, query: str = "") -> bytes:
    """The key's document for relying parties."""
    reply = daemon.request("GET", f"/v1/keys/{name}/attestation{query}")
    assert reply.status == 200, reply.body
    return reply.body


def refused(reply: Reply, status: int, code: str) -> None:
    """That an answer is this refusal."""
    assert (reply.status, reply.json["code"]) == (status, code), reply.body


def judge(daemon: Daemon) -> Judge:
    """Any workload, now, with the simulator's root added."""
    anchors = (*genuine_anchors(), daemon.simulator.anchor)
    return Judge(datetime.now(UTC), Workload(any_workload=True), anchors)


def verifiers(daemon: Daemon, payload: bytes, folder: Path) -> dict[str, Callable[[bytes, bytes], object]]:
    """By format: takes a signature and its key's document, and raises unless it is to be believed."""
    asked = judge(daemon)
    return {
        "bundle": lambda data, _: daemon.verify(data, payload),
        "raw": lambda data, key: openssl(data, key, payload, folder),
        "jws": lambda data, key: verify_jws(data, key, asked, payload=payload),
        "cose": lambda data, key: verify_cose(data, key, asked, payload=payload),
        "eat": lambda data, _: verify_eat(data, asked, nonce=NONCE),
        "ssh": lambda data, key: verify_ssh(data, key, asked, payload=[payload], context=NAMESPACE),
    }


def openssl(signature: bytes, key: bytes, payload: bytes, folder: Path) -> None:
    """`openssl pkeyutl -verify` over a raw signature. Raises CalledProcessError."""
    found = decode(key)
    public = load_der_public_key(found.spki)
    (folder / "key.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (folder / "signature").write_bytes(signature)
    (folder / "payload").write_bytes(payload)
    words = ["-verify", "-pubin", "-inkey", "key.pem", "-rawin", "-in", "payload", "-sigfile", "signature"]
    digest: Sequence[str] = ["-digest", found.algorithm.hash.replace("-", "")] if found.algorithm.hash else []
    subprocess.run(["openssl", "pkeyutl", *words, *digest], cwd=folder, check=True, capture_output=True, timeout=60)
