"""Evidence made after the request came: by any key, in batches, under a policy, from a host that is slow or changes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.core import attachdoc, compact
from agent.core.errors import BindingMismatch
from agent.daemon.api import DIGEST_TYPE
from agent.daemon.freshapi import MAX_CHALLENGES
from tests.support.daemon import (
    GROUP,
    MEMBER,
    STRANGER,
    Daemon,
    Reply,
    as_user,
    dial,
    open_folder,
    running_daemon,
)
from tests.support.recording import recording_simulator
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse
BATCH_TYPE = "application/vnd.tee-agent.batch+json"
NONCE = bytes(range(32))


@pytest.fixture(scope="module", params=["snp", "tdx"])
def simulator(request: pytest.FixtureRequest, pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator(request.param, folder, pki_state) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    with open_folder() as folder, running_daemon(simulator, folder, audience="rp.example") as running:
        for name, algorithm in (("one", "Ed25519"), ("two", "ECDSA-P384")):
            assert make(running, name, algorithm=algorithm).status == 201
        assert make(running, "letters", use="jws").status == 201
        yield running


@pytest.fixture
def stalled(simulator: Simulator, daemon: Daemon) -> Iterator[Callable[[], None]]:
    """From the next report on the hardware stalls, until the test calls this (or ends)."""
    daemon.challenge(nonce=NONCE.hex())  # the one that the fault lets pass
    simulator.fault("throttle:1:600")
    yield simulator.clear
    simulator.clear()


def make(daemon: Daemon, name: str, **fields: Any) -> Reply:
    document = {"name": name, "use": "bundle", **fields}
    return daemon.post("/v1/keys", json.dumps(document).encode(), Content_Type="application/json")


def batch(daemon: Daemon, *challenges: dict[str, Any]) -> Reply:
    return daemon.post("/v1/challenge", json.dumps({"challenges": challenges}).encode(), Content_Type=BATCH_TYPE)


def waiting(daemon: Daemon) -> int:
    found: int = daemon.status()["challenges"]["waiting"]
    return found


def wait_for(true: Callable[[], bool]) -> None:
    """Asked over and over, ended by the test's own timeout."""
    while not true():
        threading.Event().wait(0.01)


def nonce_of(number: int) -> bytes:
    return b"nonce of %08d" % number


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


GOOD = {"nonce": "00" * 16}
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


def test_callers_and_keys_share_one_tree(daemon: Daemon, stalled: Callable[[], None]) -> None:
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(daemon.challenge, nonce=nonce_of(0).hex())
        wait_for(lambda: waiting(daemon) == 1)
        rest = [
            threads.submit(daemon.post, f"/v1/keys/{name}/sign?fresh=true", name.encode()) for name in ("one", "two")
        ]
        rest.append(threads.submit(batch, daemon, {"nonce": nonce_of(1).hex()}, {"nonce": nonce_of(2).hex()}))
        wait_for(lambda: waiting(daemon) == 5)
        stalled()
        assert first.result().status == 200
        bundles = [daemon.verify(rest[at].result().body, name).bundle for at, name in enumerate((b"one", b"two"))]
        many = rest[2].result().json
    assert len({bundle.attachments.spki for bundle in bundles}) == 2
    roots = {bundle.fresh.root.hex() for bundle in bundles if bundle.fresh}
    assert roots | {document["fresh"]["root"] for document in many["bundles"]} == roots
    assert len(roots) == 1
    assert {bundle.attachments.digest.hex() for bundle in bundles}.isdisjoint({many["attachments"]})


def test_a_failing_kernel_fails_the_batch_and_not_the_next(simulator: Simulator, daemon: Daemon) -> None:
    simulator.fault("eio:*")
    try:
        for reply in (daemon.post("/v1/keys/one/sign?fresh=true", b"x"), batch(daemon, GOOD, GOOD)):
            assert (reply.status, reply.json["code"].partition(".")[0]) == (503, "firmware")
    finally:
        simulator.clear()
    daemon.verify(daemon.post("/v1/keys/one/sign?fresh=true", b"x").body, b"x")
    assert waiting(daemon) == 0


@pytest.fixture
def short(daemon: Daemon) -> None:
    """A key of this name."""
    assert make(daemon, "short").status == 201


@pytest.mark.usefixtures("short")
def test_a_key_destroyed_during_the_quote_signs_nothing(daemon: Daemon, stalled: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(daemon.post, "/v1/keys/short/sign?fresh=true", b"x")
        wait_for(lambda: waiting(daemon) == 1)
        assert daemon.request("DELETE", "/v1/keys/short").status == 200
        stalled()
        assert (asked.result().status, asked.result().json["code"]) == (404, "usage.key")


def test_who_leaves_gives_all_its_places_back(daemon: Daemon, stalled: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(daemon.challenge, nonce=nonce_of(0).hex())
        wait_for(lambda: waiting(daemon) == 1)
        said = json.dumps({"challenges": [GOOD] * 50}).encode()
        head = f"POST /v1/challenge HTTP/1.1\r\nHost: a\r\nContent-Type: {BATCH_TYPE}\r\nContent-Length: {len(said)}\r\n\r\n"
        with dial(daemon.socket) as sock:
            sock.sendall(head.encode() + said)
            wait_for(lambda: waiting(daemon) == 51)
        wait_for(lambda: waiting(daemon) == 1)
        stalled()
        assert first.result().status == 200


def test_waiting_challenges_are_answered_before_the_daemon_stops(simulator: Simulator) -> None:
    with open_folder() as folder, running_daemon(simulator, folder) as daemon:
        daemon.post("/v1/sign", b"x")
        simulator.fault("throttle:1:600")
        try:
            with ThreadPoolExecutor(2) as threads:
                asked = [threads.submit(daemon.challenge, nonce=nonce_of(number).hex()) for number in range(2)]
                wait_for(lambda: waiting(daemon) == 2)
                daemon.process.send_signal(signal.SIGTERM)
                wait_for(lambda: not _takes_connections(daemon))
                simulator.clear()
                for number, future in enumerate(asked):
                    daemon.verify(future.result().body, b"", nonce=nonce_of(number))
        finally:
            simulator.clear()
        assert daemon.process.wait(30) == 0
        assert daemon.simulator_entries() == []


def _takes_connections(daemon: Daemon) -> bool:
    with dial(daemon.socket) as sock:
        sock.settimeout(1)
        try:
            sock.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n")
            return bool(sock.recv(1))
        except OSError:
            return False


FLOOD = """
import json, os, socket, sys, threading, time
path, kind = sys.argv[1], sys.argv[2]
def send(sock, method, target, body, media):
    head = f"{method} {target} HTTP/1.1\\r\\nHost: a\\r\\nContent-Type: {media}\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
    sock.sendall(head.encode() + body)
def flood(number):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    while True:
        if kind == "keys":
            name = f"k{number}-{os.urandom(4).hex()}"
            send(sock, "POST", "/v1/keys", json.dumps({"name": name, "use": "raw"}).encode(), "application/json")
        else:
            wishes = [{"nonce": os.urandom(32).hex()} for _ in range(100)]
            body = json.dumps({"challenges": wishes}).encode()
            send(sock, "POST", "/v1/challenge", body, "application/vnd.tee-agent.batch+json")
        answer = sock.recv(1 << 20)
        if not answer:
            return
        if b" 20" not in answer[:12]:
            time.sleep(0.2)
            continue
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0])
        left = length - len(answer.split(b"\\r\\n\\r\\n", 1)[1])
        while left > 0:
            left -= len(sock.recv(1 << 20))
for number in range(24):
    threading.Thread(target=flood, args=(number,), daemon=True).start()
print("flooding", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kinds", [("challenges",), ("keys",), ("challenges", "keys")], ids=["trees", "keys", "both"])
def test_one_user_who_floods_delays_anothers_challenge_by_two_quotes_at_the_most(
    pki_state: Path, kinds: tuple[str, ...]
) -> None:
    """Counted in what the hardware gave: between the question and its own quote, two others at the most, and one more
    that may have come while the question was on its way. tests/unit/daemon/test_shares.py has it to the quote."""
    with (
        open_folder() as folder,
        recording_simulator(folder, pki_state) as (simulator, record),
        running_daemon(simulator, folder, challenge_batch_max=400) as daemon,
    ):
        daemon.post("/v1/sign", b"x")
        simulator.fault("rate:1:1")
        floods = [flood(daemon, kind) for kind in kinds]
        try:
            wait_for(lambda: len(record.lines()) > 4)
            for number in range(3):
                before = len(record.lines())
                reply = daemon.challenge(nonce=nonce_of(number).hex())
                bundle = daemon.verify(reply.body, b"", nonce=nonce_of(number)).bundle
                assert record.lines()[before:].index(bundle.report_data().value.hex()) <= 3
        finally:
            simulator.clear()
            for process in floods:
                process.kill()
                process.communicate()


def flood(daemon: Daemon, kind: str) -> subprocess.Popen[bytes]:
    argv = [*as_user(MEMBER, GROUP), sys.executable, "-I", "-c", FLOOD, str(daemon.socket), kind]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"flooding\n"
    return process


def tcb(daemon: Daemon, which: str) -> bytes:
    reply = daemon.post("/v1/sign", b"") if which == "agent" else daemon.post(f"/v1/keys/{which}/sign", b"")
    blob: bytes = daemon.verify(reply.body, b"").bundle.attachments.blob
    return blob


def test_keys_get_new_evidence_at_once_when_the_tcb_changes(simulator: Simulator) -> None:
    with open_folder() as folder, running_daemon(simulator, folder) as daemon:
        for name in ("one", "two"):
            assert make(daemon, name).status == 201
        names = ("agent", "one", "two")
        before = {name: tcb(daemon, name) for name in names}
        ids = [key["id"] for key in daemon.request("GET", "/v1/keys").json["keys"]]
        daemon.challenge(nonce=NONCE.hex())
        assert {name: tcb(daemon, name) for name in names} == before
        simulator.fault("tcb")
        try:
            daemon.challenge(nonce=NONCE.hex())
            wait_for(lambda: all(tcb(daemon, name) != before[name] for name in names))
        finally:
            simulator.clear()
        after = [key["id"] for key in daemon.request("GET", "/v1/keys").json["keys"]]
        assert (after[0] != ids[0], after[1:]) == (True, ids[1:])
        audit = (folder / "audit" / "audit.jsonl").read_text()
        assert audit.count('"kind":"tcb.changed"') == 1
