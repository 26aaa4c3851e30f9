"""A serving process that trusts a key for policies: put, release, tampering in the database, reload."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.verify.policysign import signed
from sim.export import export
from sim.psp import default_measurement
from tests.support.simulator import machine, pki_state
from tests.support.tas import Prover, RunningTas, running_tas, snp_policy

__all__ = ["pki_state"]
FAILED = (400, "TEE verification failed")


@pytest.fixture(scope="module")
def prover(pki_state: Path) -> Prover:
    return Prover(machine("snp", pki_state))


def key_pair(folder: Path, name: str) -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.pub").write_bytes(public)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form)


def store(service: RunningTas, document: object) -> None:
    """Past the product, as somebody would who can write into the database."""
    with sqlite3.connect(service.state / "tas.sqlite", timeout=60) as database:
        database.execute("UPDATE policies SET document = ? WHERE policy_id = 'web'", (json.dumps(document),))
    database.close()


def test_signatures_hold_at_put_and_at_every_use(tmp_path: Path, prover: Prover) -> None:
    export(prover.machine, tmp_path / "endorsements")
    trust = tmp_path / "trust"
    private = key_pair(trust, "first")
    policy = snp_policy("web", "disk", default_measurement().hex())
    good = signed(policy, private)
    with running_tas(
        tmp_path / "tas",
        trust_roots=[tmp_path / "endorsements" / "root.pem"],
        endorsements=tmp_path / "endorsements",
        arguments=["--rate-limit", "0", "--policy-trust", str(trust), "--require-signed-policies"],
    ) as service:
        service.create_secret("disk")
        # Without options of its own, put knows the server's keys.
        assert "is not signed" in service.run("policy", "put", "-", stdin=json.dumps(policy), status=65)
        service.put_policy(good)
        secret = service.secret("disk")

        def ask() -> object:
            answer = service.get_secret(prover.body(service.nonce(), "web"))
            return prover.unwrap(answer) if answer.status == 200 else answer.error

        assert ask() == secret
        store(service, {**good, "metadata": {**good["metadata"], "key_id": "other"}})
        assert ask() == FAILED
        store(service, policy)
        assert ask() == FAILED
        assert service.log()[-1]["code"] == "verify.policy.signature"
        store(service, good)
        assert ask() == secret

        # Another key takes over: what the first one signed is worth nothing from the reload on.
        (trust / "first.pub").unlink()
        newer = signed(policy, key_pair(trust, "second"))
        assert service.process
        service.process.send_signal(signal.SIGHUP)
        service.await_event("reload")
        assert ask() == FAILED
        service.put_policy(newer, replace=True)
        assert ask() == secret

        # An emptied folder is a mistake, not trust in everybody: the reload fails and changes nothing.
        (trust / "second.pub").unlink()
        service.process.send_signal(signal.SIGHUP)
        service.await_event("reload-failed")
        assert ask() == secret
        store(service, policy)
        assert ask() == FAILED
