"""Evidence made after the request came: by any key, in every form, in batches, under a policy."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core import attachdoc, compact
from agent.core.errors import BindingMismatch
from agent.daemon.api import DIGEST_TYPE
from agent.daemon.freshapi import MAX_CHALLENGES
from tests.support.daemon import GROUP, MEMBER, STRANGER, Daemon, as_user, open_folder, running_daemon
from tests.support.fresh import BATCH_TYPE, GOOD, NONCE, batch, daemon_with_keys, nonce_of, waiting
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module", params=["snp", "tdx"])
def simulator(request: pytest.FixtureRequest, pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator(request.param, folder, pki_state) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    with daemon_with_keys(simulator) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/sign", "/v1/keys/one/sign", "/v1/keys/two/sign"])
def test_a_fresh_signature_has_the_payload_in_its_leaf(daemon: Daemon, path: str) -> None:
    payload = os.urandom(300_000)
    reply = daemon.post(f"{path}?fresh=true&nonce={NONCE.hex()}&context=c&audience=a", payload)
    assert reply.headers["Content-Type"] == "application/vnd.tee-agent.bundle+json"
    bundle = daemon.verify(reply.body, payload, nonce=NONCE, context="c", audience="a").bundle
    assert bundle.leaf().payload_digest == hashlib.sha512(payload).digest()
    assert bundle.attachments.statement.owner == ("agent" if path == "/v1/sign" else "uid-0")
    plain = daemon.verify(daemon.post(path, payload).body, payload).bundle.attachments
    assert plain.blob != bundle.attachments.blob
    assert (plain.spki, plain.statement) == (bundle.attachments.spki, bundle.attachments.statement)
    with pytest.raises(BindingMismatch):
        daemon.verify(reply.body, payload[1:], nonce=NONCE)
    with pytest.raises(BindingMismatch):
        daemon.verify(reply.body, payload, nonce=NONCE[::-1])


@pytest.mark.parametrize("path", ["/v1/sign", "/v1/keys/two/sign"])
def test_the_agent_makes_a_nonce_where_the_caller_has_none(daemon: Daemon, path: str) -> None:
    payload = b"hashed elsewhere"
    said = {"alg": "sha-512", "digest": hashlib.sha512(payload).hexdigest(), "size": len(payload)}
    nonces = set()
    for _ in range(2):
        reply = daemon.post(f"{path}?fresh=true", json.dumps(said).encode(), Content_Type=DIGEST_TYPE)
        fresh = daemon.verify(reply.body, payload).bundle.fresh
        assert fresh
        nonces.add(fresh.nonce)
    assert {len(nonce) for nonce in nonces} == {32}
    assert len(nonces) == 2


@pytest.mark.parametrize("path", ["/v1/sign", "/v1/keys/one/sign"])
def test_a_compact_one_joins_its_attachments(daemon: Daemon, path: str) -> None:
    made = daemon.post(f"{path}?fresh=true", b"x", Accept=compact.MEDIA_TYPE).body
    found = compact.decode(made)
    attachments = daemon.request("GET", f"/v1/attachments/{found.attachments.hex()}").body
    whole = compact.join(found, attachdoc.decode(attachments))
    daemon.verify(whole.encode(), b"x")


WRONG = {
    "fresh=yes": "usage",
    "fresh=false&nonce=" + "00" * 16: "usage",
    "nonce=" + "00" * 16: "usage",
    "fresh=true&nonce=" + "00" * 15: "format",
    "fresh=true&nonce=" + "00" * 65: "format",
    "fresh=true&nonce=" + "AB" * 16: "format",
    "fresh=true&fresh=true": "usage",
}


@pytest.mark.parametrize("query", WRONG, ids=[*map(str, range(len(WRONG)))])
@pytest.mark.parametrize("path", ["/v1/sign", "/v1/keys/one/sign"])
def test_wrong_queries(daemon: Daemon, path: str, query: str) -> None:
    reply = daemon.post(f"{path}?{query}", b"x")
    assert (reply.status, reply.json["code"]) == (400, WRONG[query])


def test_fresh_is_for_bundles_and_not_for_batches(daemon: Daemon) -> None:
    assert daemon.post("/v1/keys/letters/sign?fresh=true", b"x").json["code"] == "usage"
    for path in ("/v1/sign", "/v1/keys/one/sign"):
        reply = daemon.post(f"{path}?fresh=true", b'{"payloads":[{"data":""}]}', Content_Type=BATCH_TYPE)
        assert (reply.status, reply.json["code"]) == (400, "usage.batch")
    assert daemon.post("/v1/keys/none/sign?fresh=true", b"x").status == 404


def test_a_hundred_challenges_in_one_request_share_a_tree(daemon: Daemon) -> None:
    batches = daemon.status()["challenges"]["batches"]
    wishes = [
        {"nonce": nonce_of(number).hex(), "context": str(number), "claims": {"n": number}}
        for number in range(MAX_CHALLENGES)
    ]
    reply = batch(daemon, *wishes)
    assert (reply.status, reply.headers["Content-Type"]) == (200, BATCH_TYPE)
    answer = reply.json
    attachments = attachdoc.decode(daemon.request("GET", f"/v1/attachments/{answer['attachments']}").body)
    assert attachments.digest.hex() == answer["attachments"]
    places = set()
    for number, document in enumerate(answer["bundles"]):
        data = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
        bundle = compact.join(compact.decode(data), attachments)
        verdict = daemon.verify(bundle.encode(), b"", nonce=nonce_of(number), context=str(number))
        fresh = verdict.bundle.fresh
        assert fresh
        assert (fresh.claims_unverified, fresh.caller["uid"]) == ({"n": number}, 0)
        places.add((fresh.root, fresh.index))
    assert sorted(index for _, index in places) == list(range(MAX_CHALLENGES))
    assert daemon.status()["challenges"]["batches"] == batches + 1


NOT_BATCHES: list[Any] = [
    {},
    {"challenges": []},
    {"challenges": [GOOD] * (MAX_CHALLENGES + 1)},
    {"challenges": GOOD},
    {"challenges": ["00" * 16]},
    {"challenges": [GOOD, {}]},
    {"challenges": [GOOD, {"nonce": "00" * 15}]},
    {"challenges": [{**GOOD, "claims": {"x": "y" * 4096}}]},
    {"challenges": [{**GOOD, "claims": {"x": 0.5}}]},
    {"challenges": [{**GOOD, "context": "x" * 257}]},
    {"challenges": [{**GOOD, "fresh": True}]},
    {"challenges": [GOOD], "more": 1},
    {"payloads": [{"data": ""}]},
]


@pytest.mark.parametrize("document", NOT_BATCHES, ids=[*map(str, range(len(NOT_BATCHES)))])
def test_what_is_no_batch_of_challenges(daemon: Daemon, document: Any) -> None:
    reply = daemon.post("/v1/challenge", json.dumps(document).encode(), Content_Type=BATCH_TYPE)
    assert (reply.status, reply.json["code"].partition(".")[0]) == (400, "format")
    assert waiting(daemon) == 0


def test_too_large_a_batch(daemon: Daemon) -> None:
    reply = daemon.post("/v1/challenge", b" " * (512 * 1024 + 1), Content_Type=BATCH_TYPE)
    assert (reply.status, reply.json["code"]) == (413, "format.oversized")


def test_what_accept_chooses(daemon: Daemon) -> None:
    body = json.dumps(GOOD).encode()
    for accept, media_type in (
        ("application/json", "application/vnd.tee-agent.bundle+json"),
        (compact.MEDIA_TYPE, compact.MEDIA_TYPE),
    ):
        reply = daemon.post("/v1/challenge", body, Content_Type="application/json", Accept=accept)
        assert (reply.status, reply.headers["Content-Type"]) == (200, media_type)
    assert daemon.post("/v1/challenge", body, Content_Type="application/json", Accept="text/html").status == 406
    many = json.dumps({"challenges": [GOOD]}).encode()
    assert daemon.post("/v1/challenge", many, Content_Type=BATCH_TYPE, Accept="application/json").status == 200
    assert daemon.post("/v1/challenge", many, Content_Type=BATCH_TYPE, Accept=compact.MEDIA_TYPE).status == 406


POLICY = """
[[rule]]
name = "no-secret-challenges"
effect = "deny"
who = {user = "%d"}
operations = "challenge"
contexts = "secret*"

[[rule]]
name = "challenges"
effect = "allow"
who = {user = "%d"}
operations = ["challenge", "status"]

[[rule]]
name = "signs-only"
effect = "allow"
who = {user = ["%d", "%d"]}
operations = ["sign", "keys.create"]
"""


def test_a_fresh_signature_needs_both_operations_and_a_batch_each_of_its_contexts(simulator: Simulator) -> None:
    with open_folder() as folder:
        (folder / "policy.d").mkdir()
        (folder / "policy.d" / "10.toml").write_text(POLICY % (MEMBER, MEMBER, MEMBER, STRANGER))
        with running_daemon(simulator, folder) as daemon:
            member, stranger = as_user(MEMBER, GROUP), as_user(STRANGER)
            sign, fresh = "http://agent/v1/sign", "http://agent/v1/sign?fresh=true"
            assert daemon.curl("-d", "x", sign, user=stranger)[0] == 200
            status, said = daemon.curl("-d", "x", fresh, user=stranger)
            assert (status, b"no rule allows challenge" in said) == (403, True)
            assert daemon.curl("-d", "x", fresh, user=member)[0] == 200
            status, said = daemon.curl("-d", "x", f"{fresh}&context=secrets", user=member)
            assert (status, b"no-secret-challenges" in said) == (403, True)
            assert daemon.curl("-d", "x", f"{sign}?context=secrets", user=member)[0] == 200
            made = '{"name":"k","use":"bundle"}'
            assert daemon.curl("--json", made, "http://agent/v1/keys", user=stranger)[0] == 201
            assert daemon.curl("-d", "x", "http://agent/v1/keys/k/sign", user=stranger)[0] == 200
            assert daemon.curl("-d", "x", "http://agent/v1/keys/k/sign?fresh=true", user=stranger)[0] == 403
            words = ("-H", f"Content-Type: {BATCH_TYPE}", "http://agent/v1/challenge")
            for contexts, expected in ((("a", "b"), 200), (("a", "secrets"), 403), (("secrets", "a"), 403)):
                asked = json.dumps({"challenges": [{**GOOD, "context": context} for context in contexts]})
                assert daemon.curl("-d", asked, *words, user=member)[0] == expected
