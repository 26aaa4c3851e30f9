"""The published signatures verify, each step gives the published bytes, and Ed25519's are made again bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core import cose, eat, jws, keydoc, sshsig
from agent.core.algorithm import ALGORITHMS
from agent.core.errors import UntrustedRoot
from agent.core.sshwire import PublicKey
from agent.verify.cose import verify_cose
from agent.verify.eat import verify_eat
from agent.verify.evidence import anchor_from_pem
from agent.verify.jws import verify_jws
from agent.verify.keydoc import verify_key
from agent.verify.signed import Judge, KeyVerdict
from agent.verify.ssh import verify_ssh
from agent.verify.workload import Workload
from tests.support import format_vectors as vectors
from tests.support import judges, ssh
from tests.support.formats import PAYLOAD


def cases(name: str) -> Iterator[Any]:
    """Each case with what it shares with the others."""
    document = json.loads((vectors.FOLDER / f"{name}.json").read_text())
    for case in document["cases"]:
        yield pytest.param({**document, **case, "kind": name}, id=f"{name}-{case['algorithm']}")


EVERY = [case for name in vectors.TITLES for case in cases(name)]


def judge(case: dict[str, Any], *, trusted: bool = True) -> Judge:
    root = anchor_from_pem(case["root_pem"].encode(), "vector")
    at = datetime.fromisoformat(case["verify_at"])
    return Judge(at, Workload(any_workload=True), anchors=(root,) if trusted else None)


def detached(case: dict[str, Any]) -> bytes | None:
    return bytes.fromhex(case["payload"]) if "cose" in case and case["steps"]["payload"] is None else None


def verify(case: dict[str, Any], by: Judge) -> KeyVerdict:
    document = case.get("key_document", "").encode()
    match case["kind"]:
        case "key":
            return verify_key(document, by, use="raw")
        case "jws":
            asked = {"payload": bytes.fromhex(case["payload"])}
            return verify_jws(
                case["jws"].encode(), document, by, **asked, context=case["context"], audience=case["audience"]
            )
        case "cose":
            payload = bytes.fromhex(case["payload"])
            return verify_cose(bytes.fromhex(case["cose"]), document, by, payload=payload, context=case["context"])
        case "ssh":
            payload = bytes.fromhex(case["payload"])
            return verify_ssh(case["ssh"].encode(), document, by, payload=[payload], context=case["context"])
    return verify_eat(token(case), by, nonce=bytes.fromhex(case["steps"]["nonce"]), audience=case["steps"]["audience"])


def token(case: dict[str, Any]) -> bytes:
    text: str = case["eat"]
    return text.encode() if case["form"] == eat.JSON else bytes.fromhex(text)


@pytest.mark.parametrize("case", EVERY)
def test_it_verifies(case: dict[str, Any]) -> None:
    assert verify(case, judge(case)).verified.added_root
    with pytest.raises(UntrustedRoot):
        verify(case, judge(case, trusted=False))


def test_every_algorithm_has_one() -> None:
    for name in ("key", "jws", "cose"):
        assert [case.values[0]["algorithm"] for case in cases(name)] == list(ALGORITHMS)
    assert [case.values[0]["algorithm"] for case in cases("ssh")] == list(ssh.ALGORITHMS)
    assert {case.values[0]["form"] for case in cases("eat")} == {eat.JSON, eat.CBOR}


@pytest.mark.parametrize("case", EVERY)
def test_each_step(case: dict[str, Any]) -> None:
    match case["kind"]:
        case "key":
            found = vectors.key_steps(case["key_document"].encode())
            assert vectors.fixed_key(case["algorithm"]).spki == keydoc.decode(case["key_document"].encode()).spki
        case "jws":
            found = vectors.jws_steps(case["jws"].encode())
        case "cose":
            found = vectors.cose_steps(bytes.fromhex(case["cose"]), detached(case))
        case "ssh":
            found = vectors.ssh_steps(case["ssh"].encode(), bytes.fromhex(case["payload"]))
        case _:
            found = vectors.eat_steps(token(case), case["form"])
    assert json.loads(json.dumps(found)) == case["steps"]


@pytest.mark.parametrize("case", [*cases("jws"), *cases("cose"), *cases("eat")])
def test_independent_libraries_take_it(case: dict[str, Any]) -> None:
    spki = vectors.fixed_key(case["algorithm"]).spki
    if case["kind"] == "jws" or case.get("form") == eat.JSON:
        data = case["jws"].encode() if case["kind"] == "jws" else token(case)
        payload = judges.joserfc(spki, data).payload or b""
        digest = hashlib.sha256(payload).hexdigest()
        assert digest == case["steps"].get("payload_sha256", hashlib.sha256(PAYLOAD).hexdigest())
    else:
        data = bytes.fromhex(case["cose"]) if case["kind"] == "cose" else token(case)
        assert judges.pycose(spki, data, detached(case))


@pytest.mark.parametrize("case", [*cases("ssh")])
def test_openssh_takes_it(case: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "allowed").write_text(f'me namespaces="{case["context"]}" {case["public_line"]}\n')
    (tmp_path / "made.sig").write_text(case["ssh"])
    words = ["-Y", "verify", "-f", "allowed", "-I", "me", "-n", case["context"], "-s", "made.sig"]
    done = ssh.client(tmp_path, "ssh-keygen", *words, cwd=tmp_path, given=bytes.fromhex(case["payload"]))
    assert (done.returncode, done.stdout[:4]) == (0, b"Good")
    assert PublicKey.of(vectors.fixed_key(case["algorithm"]).spki).line() == case["public_line"]


def test_ed25519_gives_the_same_bytes_again() -> None:
    key = vectors.fixed_key("Ed25519")
    made, signed, document, file = (next(cases(name)).values[0] for name in ("jws", "cose", "eat", "ssh"))
    payload, texts = bytes.fromhex(made["payload"]), {"context": made["context"], "audience": made["audience"]}
    assert jws.build(key.sign, key.spki, payload, **texts).decode() == made["jws"]
    again = cose.build(key.sign, key.spki, payload, content_type="text/plain", **texts)
    assert again.hex() == signed["cose"]
    whole = sshsig.FileSignature(texts["context"], "sha512", bytes.fromhex(file["steps"]["digest"]))
    assert sshsig.build(PublicKey.of(key.spki), whole, key.sign(whole.encode())).decode() == file["ssh"]
    found = eat.decode(token(document))
    assert eat.build(key.sign, keydoc.decode(found.document), found.claims, eat.JSON) == token(document)
