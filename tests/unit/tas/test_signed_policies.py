"""Signed policies at the service: what is put, what is used, what reload and check say; and sign on the command line."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.core.policy import Policy
from agent.verify.evidence import genuine_anchors
from agent.verify.policysign import load_keys, signed, verified
from agent.verify.shelf import Shelf
from sim.psp import default_measurement
from tas import cli
from tas.log import Log
from tas.nonces import Nonces
from tas.service import Service
from tas.store import Store
from tas.trust import Material
from tests.support.simulator import anchor, machine, pki_state
from tests.support.tas import Prover, snp_policy

__all__ = ["pki_state"]
POLICY = snp_policy("web", "disk", default_measurement().hex())


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: key.pem and trust/key.pub, rogue.pem and rogue.pub."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "trust").mkdir()
    for name, public in (("key", "trust/key.pub"), ("rogue", "rogue.pub")):
        key = rsa.generate_private_key(65537, 2048)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{name}.pem").write_bytes(key.private_bytes(*form))
        spki = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / public).write_bytes(spki)
    return folder


def sign(keys: Path, document: dict[str, Any] = POLICY, name: str = "key") -> dict[str, Any]:
    return signed(document, (keys / f"{name}.pem").read_bytes())


class World:
    """A service that trusts the key in ``trust``, and a guest that would get the secret."""

    def __init__(self, folder: Path, prover: Prover, keys: Path) -> None:
        self.store = Store(folder / "tas.sqlite")
        self.prover = prover
        self.sink = io.StringIO()
        anchors = (*genuine_anchors(), anchor(prover.machine.root))
        shelf = Shelf.of(prover.machine.endorsements())
        material = Material(anchors, shelf, b"k" * 64, policy_keys=load_keys([keys / "trust"]))
        self.service = Service(self.store, Nonces(), material, Log(self.sink), lambda: datetime.now(UTC))
        self.store.create_secret("disk", 32)

    def ask(self, document: dict[str, Any], stored_as: str = "web") -> tuple[int, str]:
        self.store.put_policy(stored_as, json.dumps(document), replace=True)
        answer = self.service.get_secret(self.prover.body(self.service.nonce(), stored_as), "req-1", "192.0.2.1")
        record = json.loads(self.sink.getvalue().splitlines()[-1])
        return answer.status, record.get("code", record["verdict"])


@pytest.fixture
def world(tmp_path: Path, pki_state: Path, keys: Path) -> Iterator[World]:
    made = World(tmp_path, Prover(machine("snp", pki_state)), keys)
    yield made
    made.store.close()


def test_only_what_a_trusted_key_signed_releases(world: World, keys: Path) -> None:
    made = sign(keys)
    assert world.ask(made) == (200, "released")
    assert "policy: signature" not in world.sink.getvalue()
    refused = (400, "verify.policy.signature")
    assert world.ask(POLICY) == refused
    assert world.ask(sign(keys, name="rogue")) == refused
    assert world.ask({**made, "metadata": {**made["metadata"], "key_id": "other"}}) == refused
    assert world.ask(made) == (200, "released")


def test_without_trusted_keys_the_log_says_that_nobody_checked(world: World) -> None:
    world.service.material = replace(world.service.material, policy_keys=())
    assert world.ask(POLICY) == (200, "released")
    assert "policy: signature" in json.loads(world.sink.getvalue().splitlines()[-1])["not_checked"]


def test_keys_taken_back_end_a_policy_at_once(world: World, keys: Path) -> None:
    made = sign(keys)
    assert world.ask(made) == (200, "released")
    world.service.material = replace(world.service.material, policy_keys=load_keys([keys / "rogue.pub"]))
    assert world.ask(made) == (400, "verify.policy.signature")


def test_a_signed_policy_answers_to_its_own_id_only(world: World, keys: Path) -> None:
    """Whoever writes into the database can't make a signed policy speak for another name."""
    assert world.ask(sign(keys), stored_as="database") == (400, "denied.policy-unknown")


# The command line


class Tas:
    def __init__(self, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state, self.capsys = state, capsys

    def __call__(self, *words: str, status: int = 0) -> str:
        assert cli.main([*words, "--state", str(self.state)]) == status
        said = self.capsys.readouterr()
        return said.out + said.err


@pytest.fixture
def tas(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tas:
    monkeypatch.setattr(cli, "harden", lambda **_: ())  # it would change the test process itself
    made = Tas(tmp_path / "tas", capsys)
    made("init")
    return made


def write(path: Path, document: dict[str, Any]) -> str:
    path.write_text(json.dumps(document))
    return str(path)


def test_sign_and_put(tas: Tas, tmp_path: Path, keys: Path) -> None:
    plain = write(tmp_path / "plain.json", POLICY)
    text = tas("policy", "sign", plain, "--key", str(keys / "key.pem"))
    assert verified(Policy.from_bytes(text.encode()), load_keys([keys / "trust"])).signer
    good = write(tmp_path / "good.json", json.loads(text))
    trust = ("--policy-trust", str(keys / "trust"))
    assert "signed by sha256:" in tas("policy", "put", good, *trust)
    for document, name in ((POLICY, "is not signed"), (sign(keys, name="rogue"), "none of the 1 trusted keys")):
        bad = write(tmp_path / "bad.json", document)
        assert name in tas("policy", "put", bad, "--replace", *trust, status=65)
    assert json.loads(tas("policy", "show", "web")) == json.loads(text)


def test_sign_needs_no_state_and_shows_no_key(tmp_path: Path, keys: Path, tas: Tas) -> None:
    plain = write(tmp_path / "plain.json", POLICY)
    text = Tas(tmp_path / "absent", tas.capsys)("policy", "sign", plain, "--key", str(keys / "key.pem"))
    assert not (tmp_path / "absent").exists()
    assert "PRIVATE" not in text
    assert "not an RSA private key" in tas("policy", "sign", plain, "--key", str(keys / "rogue.pub"), status=65)
    assert "can't be read" in tas("policy", "sign", plain, "--key", str(tmp_path / "missing"), status=64)


def test_requiring_signatures_without_a_key_is_refused(tas: Tas, tmp_path: Path, keys: Path) -> None:
    good = write(tmp_path / "good.json", sign(keys))
    assert "needs --policy-trust" in tas("policy", "put", good, "--require-signed-policies", status=64)
    assert "needs --policy-trust" in tas("serve", "--require-signed-policies", status=64)
    assert tas("policy", "put", good, "--require-signed-policies", "--policy-trust", str(keys / "trust"))


def test_put_and_check_know_the_keys_of_the_server(tas: Tas, tmp_path: Path, keys: Path) -> None:
    plain = write(tmp_path / "plain.json", POLICY)
    assert "is not signed: no key is trusted" in tas("policy", "put", plain)
    tas("secret", "create", "disk")
    tas("check")
    facts = {"url": "", "since": "", "crls": 1, "roots": [], "unchecked_revocation": False, "pid": 1}
    facts |= {"policy_trust": [str(keys / "trust")], "policy_keys": [{"name": "key.pub", "spki_sha256": ""}]}
    with sqlite3.connect(tas.state / "tas.sqlite") as database:
        database.execute("INSERT OR REPLACE INTO serving VALUES (1, ?)", (json.dumps(facts),))
    database.close()
    assert "policy web: policy web is not signed" in tas("check", status=78)
    assert "is not signed" in tas("policy", "put", plain, "--replace", status=65)
    tas("policy", "put", write(tmp_path / "good.json", sign(keys)), "--replace")
    tas("check")
    with sqlite3.connect(tas.state / "tas.sqlite") as database:
        facts["policy_trust"] = [str(tmp_path / "gone")]
        database.execute("INSERT OR REPLACE INTO serving VALUES (1, ?)", (json.dumps(facts),))
    database.close()
    assert "keys of --policy-trust" in tas("check", status=78)
    assert "can't be read" in tas("policy", "put", plain, "--replace", status=64)
