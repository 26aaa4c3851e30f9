"""POST /v1/verify's questions, judged in this process: the same JSON as `tee-agent verify --json`, word for word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.core import keydoc
from agent.core.algorithm import ALGORITHMS, ED25519
from agent.core.bundle_parts import Attachments, Payload
from agent.core.errors import FormatError, Oversized, UsageError
from agent.core.model import Endorsements, Tee
from agent.daemon import problem
from agent.daemon.privatekey import PrivateKey
from agent.daemon.verifyapi import judged
from agent.verify import kinds, question
from agent.verify.endorsements import certificates_in_pem
from tests.support import bundles, vectors
from tests.support.formats import AUDIENCE, CONTEXT, NONCE, PAYLOAD
from tests.support.questions import AT, KINDS, TIME, World, file, world_of


@pytest.fixture(scope="module", params=["snp", "tdx"])
def world(request: pytest.FixtureRequest, pki_state: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_of(request.param, pki_state, tmp_path_factory.mktemp("questions"))


@pytest.mark.parametrize("name", KINDS)
def test_the_same_verdict_as_the_command(world: World, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    policy = str(world.folder / "policy.json")
    valid, verdict = world.ask(name, policy=world.policy)
    assert (valid, verdict["valid"]) == (True, True)
    assert verdict == world.command(capsys, name, "--policy", policy)
    valid, verdict = world.ask(name, any_workload=True)
    assert "workload: any was accepted" in verdict["not_checked"]
    assert verdict == world.command(capsys, name, "--any-workload")


@pytest.mark.parametrize("name", KINDS)
def test_nobody_but_the_vendors_is_trusted(world: World, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    valid, verdict = world.ask(name, policy=world.policy, trusted=False)
    assert (valid, verdict["error"]["code"]) == (False, "verify.untrusted-root")
    said = world.command(capsys, name, "--policy", str(world.folder / "policy.json"), trusted=False)
    assert verdict == said


@pytest.mark.parametrize("name", KINDS)
def test_what_is_changed_is_judged_alike(world: World, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    good = world.made[name]
    for place in range(0, len(good), max(1, len(good) // 12)):
        bad = bytearray(good)
        bad[place] ^= 1
        flipped = World(world.folder, {**world.made, name: bytes(bad)}, world.policy, world.anchors)
        try:
            _, verdict = flipped.ask(name, any_workload=True)
        except UsageError:
            continue  # it is of another kind now, for which what is asked means nothing
        (world.folder / name).write_bytes(bad)
        try:
            assert verdict == flipped.command(capsys, name, "--any-workload")
        finally:
            (world.folder / name).write_bytes(good)


Case = tuple[str, dict[str, Any], list[str], bool]
ASKED: list[Case] = [
    ("bundle", {"payload": file(PAYLOAD)}, ["--payload", "payload"], True),
    ("bundle", {"payload": file(b"another")}, ["--payload", "bundle"], False),
    ("bundle", {"context": "release", "audience": "relying.example"}, ["--context", "release"], True),
    ("bundle", {"context": "other"}, ["--context", "other"], False),
    ("bundle", {"nonce": "00" * 16}, ["--nonce", "00" * 16], False),
    ("fresh", {"nonce": bundles.NONCE.hex()}, ["--nonce", bundles.NONCE.hex()], True),
    ("fresh", {"nonce": "00" * 16}, ["--nonce", "00" * 16], False),
    ("key", {"use": "raw"}, ["--use", "raw"], True),
    ("key", {"use": "eat"}, ["--use", "eat"], False),
    ("key", {"key": "00" * 32}, ["--key", "00" * 32], False),
    ("bundle", {"key": "00" * 32}, ["--key", "00" * 32], False),
    ("bundle", {"at": "2020-01-01T00:00:00Z"}, ["--at", "2020-01-01T00:00:00Z"], False),
    ("jws", {"at": "2099-01-01T00:00:00Z"}, ["--at", "2099-01-01T00:00:00Z"], False),
    ("jws", {"payload": file(PAYLOAD), "context": CONTEXT}, ["--payload", "payload"], True),
    ("jws", {"payload": file(b"another")}, ["--payload", "bundle"], False),
    ("cose", {"audience": AUDIENCE}, ["--audience", AUDIENCE], True),
    ("cose", {"audience": "other"}, ["--audience", "other"], False),
    ("detached", {"payload": file(b"another")}, ["--payload", "bundle"], False),
    ("eat.json", {"nonce": NONCE.hex(), "audience": AUDIENCE}, ["--nonce", NONCE.hex()], True),
    ("eat.cbor", {"nonce": "00" * 8}, ["--nonce", "00" * 8], False),
    ("eat.cbor", {"audience": "other"}, ["--audience", "other"], False),
    *((name, {"storage": ["memory", "tas"]}, ["--storage", "memory", "--storage", "tas"], True) for name in KINDS),
    *((name, {"storage": ["tas", "snp-derived"]}, ["--storage=tas", "--storage=snp-derived"], False) for name in KINDS),
]


@pytest.mark.parametrize("case", ASKED)
def test_what_is_asked_is_compared(world: World, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    name, asked, words, good = case
    valid, verdict = world.ask(name, any_workload=True, **asked)
    assert valid is good, verdict
    if not good:
        words = [str(world.folder / word) if word in world.made else word for word in words]
        assert verdict == world.command(capsys, name, "--any-workload", *words)
        assert verdict["error"]["code"].startswith("verify")


@pytest.mark.parametrize(
    "policy", [{}, {"metadata": 3}, {"metadata": {}, "validation_rules": {"unheard": 1}}, 7, "text"]
)
def test_a_policy_that_is_none_is_the_question_s_fault(world: World, policy: Any) -> None:
    """Nothing is judged under it, so there is no verdict that says no."""
    with pytest.raises(FormatError, match="policy"):
        world.ask("bundle", policy=policy)


def test_the_payload_by_its_digest(world: World) -> None:
    payload = Payload.of(PAYLOAD)
    digest = {"alg": "sha-512", "digest": payload.digest.hex(), "size": payload.size}
    assert world.ask("bundle", any_workload=True, payload={"digest": digest})[0]
    for wrong in ({**digest, "size": 1}, {**digest, "digest": "00" * 64}):
        assert not world.ask("bundle", any_workload=True, payload={"digest": wrong})[0]
    for name in ("jws", "cose"):
        with pytest.raises(UsageError, match="a digest says nothing"):
            world.ask(name, any_workload=True, payload={"digest": digest})


def test_another_policy_refuses(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    rules = {name: {"exact_match": "00" * 48} for name in world.policy["validation_rules"]}
    policy = {**world.policy, "validation_rules": rules}
    (world.folder / "other.json").write_text(json.dumps(policy))
    valid, verdict = world.ask("bundle", policy=policy)
    assert (valid, verdict["error"]["code"]) == (False, "verify.policy")
    assert verdict == world.command(capsys, "bundle", "--policy", str(world.folder / "other.json"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "say which workload"),
        ({"any_workload": False}, "say which workload"),
        ({"policy": {}, "any_workload": True}, "in one way only"),
        ({"any_workload": 1}, "neither true nor false"),
        ({"any_workload": "true"}, "neither true nor false"),
        ({"any_workload": None}, "neither true nor false"),
        ({"policy": "x"}, "policy is not a JSON object"),
        ({"policy": []}, "policy is not a JSON object"),
        ({"any_workload": True, "trust_root": "x"}, "unknown field"),
        ({"any_workload": True, "anchors": []}, "unknown field"),
        ({"any_workload": True, "allow": ["debug"]}, "unknown field"),
        ({"any_workload": True, "collateral": "/etc"}, "unknown field"),
        ({"any_workload": True, "document": "text"}, "document is neither"),
        ({"any_workload": True, "document": {"text": "x", "data": ""}}, "document is neither"),
        ({"any_workload": True, "document": {"text": 1}}, "document is neither"),
        ({"any_workload": True, "document": {"data": "_"}}, "data is not"),
        ({"any_workload": True, "document": {"data": "eA"}}, "data is not"),
        ({"any_workload": True, "document": {"text": "\ud800"}}, "text is not valid"),
        ({"any_workload": True, "payload": {"text": "x"}}, "digest missing"),
        ({"any_workload": True, "payload": {"digest": {"alg": "sha-256", "digest": "00" * 64, "size": 1}}}, "sha-512"),
        ({"any_workload": True, "payload": {"digest": {"alg": "sha-512", "digest": "00" * 64, "size": -1}}}, "size"),
        ({"any_workload": True, "context": "\x1b[2J"}, "context is not"),
        ({"any_workload": True, "audience": "x" * 257}, "audience is not"),
        ({"any_workload": True, "nonce": "00" * 7}, "nonce is not"),
        ({"any_workload": True, "nonce": "00" * 8}, "nonce of a bundle"),
        ({"any_workload": True, "nonce": "0G" * 16}, "nonce is not"),
        ({"any_workload": True, "key": "00" * 31}, "key is not"),
        ({"any_workload": True, "use": "tas"}, "use is not"),
        ({"any_workload": True, "use": "bundle"}, "use means nothing"),
        ({"any_workload": True, "storage": []}, "storage is not a list"),
        ({"any_workload": True, "storage": "memory"}, "storage is not a list"),
        ({"any_workload": True, "storage": {"memory": True}}, "storage is not a list"),
        ({"any_workload": True, "storage": ["disk"]}, "some of memory, snp-derived, tas"),
        ({"any_workload": True, "storage": ["memory", 1]}, "storage is not a list"),
        ({"any_workload": True, "storage": [["memory"]]}, "storage is not a list"),
        ({"any_workload": True, "storage": ["memory", "memory"]}, "each once"),
        ({"any_workload": True, "key_document": file(b"x")}, "key_document means nothing"),
        ({"any_workload": True, "at": "now"}, "at is not"),
        ({"any_workload": True, "at": "2026-01-01T00:00:00+01:00"}, "at is not"),
    ],
)
def test_questions_that_are_none(world: World, more: dict[str, Any], said: str) -> None:
    with pytest.raises((UsageError, FormatError), match=said):
        world.ask("bundle", **more)


def test_what_a_kind_lacks_or_has_no_use_for(world: World) -> None:
    for name in ("jws", "cose"):
        with pytest.raises(UsageError, match="key_document is needed"):
            world.ask(name, any_workload=True, key_document=None)
    useless: list[tuple[str, dict[str, Any]]] = [
        ("eat.json", {"context": "x"}),
        ("key", {"nonce": "00" * 16}),
        ("jws", {"nonce": "00" * 16}),
    ]
    for name, more in useless:
        with pytest.raises(UsageError, match="means nothing for this document"):
            world.ask(name, any_workload=True, **more)
    valid, verdict = world.ask("detached", any_workload=True, payload=None)
    assert (valid, verdict["error"]["code"]) == (False, "format.detached")


def test_every_kind_of_document_can_be_asked_about() -> None:
    known = {value for name, value in vars(kinds).items() if name.isupper() and isinstance(value, str)}
    assert set(question._MEANT) == known
    assert set(question._PARTICULAR) == set().union(*question._MEANT.values())


def test_bounds() -> None:
    with pytest.raises(Oversized):
        question.answer(b" " * (question.MAX_BYTES + 1), AT)
    deep = b'{"document":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(FormatError):
        question.answer(deep, AT)


def test_what_the_process_answers(world: World) -> None:
    """A mark and JSON: never an exception of ours."""
    asked = json.dumps({"document": file(world.made["bundle"]), "any_workload": True}).encode()
    assert judged(asked)[:1] == b"-"
    said = judged(b"{}")
    assert said[:1] == b"!"
    assert problem.exception(json.loads(said[1:])).code == "format"


def forged(report: bytes, endorsements: Endorsements, use: str) -> bytes:
    """A key document over somebody else's genuine evidence: everything in it is right but the binding."""
    private = PrivateKey(ALGORITHMS[ED25519])
    made = Attachments(Tee.SNP, report, endorsements, private.spki, bundles.statement(AT, use=use))
    return keydoc.build(made)


@pytest.mark.parametrize("folder", vectors.cases("snp"))
def test_genuine_evidence_under_a_stranger_s_key(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The vendors' own roots are those that count here, and both ways say the same of the same."""
    found = [der for path in sorted(folder.glob("*.pem")) for der in certificates_in_pem(path.read_bytes(), path.name)]
    crls = tuple(path.read_bytes() for path in sorted(folder.glob("*.der")))
    document = forged((folder / "report.bin").read_bytes(), Endorsements(tuple(found), crls), "raw")
    (tmp_path / "key").write_bytes(document)
    valid, verdict = question.answer(
        json.dumps({"document": file(document), "any_workload": True, "at": TIME}).encode(), AT
    )
    main(["verify", str(tmp_path / "key"), "--any-workload", "--at", TIME, "--json"])
    assert verdict == json.loads(capsys.readouterr().out)
    assert not valid
    assert verdict["error"]["code"].startswith(("verify.", "format"))


def test_one_genuine_piece_passes_all_but_the_binding(tmp_path: Path) -> None:
    folder = next((case.values[0] for case in vectors.cases("snp") if case.id == "genoa-v3-certtable"), None)
    if folder is None:
        pytest.skip("no vectors")
    found = [der for path in sorted(folder.glob("*.pem")) for der in certificates_in_pem(path.read_bytes(), path.name)]
    document = forged((folder / "report.bin").read_bytes(), Endorsements(tuple(found)), "raw")
    _, verdict = question.answer(
        json.dumps({"document": file(document), "any_workload": True, "at": TIME}).encode(), AT
    )
    assert verdict["error"]["code"] == "verify.binding"
    assert {"report signature"} <= {check["name"] for check in verdict["checks"] if check["ok"]}
