"""Compact bundles, attachments and batches over the socket: every form of the same signatures, for whom rules allow."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core import canonical, compact
from agent.core.algorithm import ALGORITHMS
from agent.daemon import bulk
from agent.daemon.formats import BUNDLE_TYPE
from agent.verify.cose import verify_cose
from agent.verify.jws import verify_jws
from tests.support.auditlogs import told
from tests.support.compact_daemon import ALL, PAYLOAD, daemon_of_all_uses, joined
from tests.support.daemon import GROUP, MEMBER, Daemon, Reply, as_user, open_folder, running_daemon
from tests.support.keys import FORMATS, create, document, judge, openssl, sign
from tests.support.simulator import running_simulator

pytestmark = pytest.mark.fuse
DIGEST = {"alg": "sha-512", "digest": hashlib.sha512(b"digested").hexdigest(), "size": 8}


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with daemon_of_all_uses(pki_state) as running:
        yield running


def refused(reply: Reply, status: int, code: str) -> None:
    assert (reply.status, reply.json["code"]) == (status, code), reply.body


def send(daemon: Daemon, path: str, items: list[Any], **headers: str) -> Reply:
    return daemon.post(path, json.dumps({"payloads": items}).encode(), Content_Type=bulk.TYPE, **headers)


def data(value: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(value).decode()}


# One at a time


@pytest.mark.parametrize("path", ["/v1/sign", "/v1/keys/one-bundle/sign"])
def test_accept_chooses_the_form_of_the_same_bundle(daemon: Daemon, path: str) -> None:
    """Ed25519 signs the same to the same: both forms are one bundle."""
    query = "?context=c&audience=a"
    whole = daemon.post(path + query, PAYLOAD)
    short = daemon.post(path + query, PAYLOAD, Accept=f"{BUNDLE_TYPE};q=0.5, {compact.MEDIA_TYPE}")
    assert (whole.headers["Content-Type"], short.headers["Content-Type"]) == (BUNDLE_TYPE, compact.MEDIA_TYPE)
    assert len(short.body) < 800
    assert joined(daemon, short.body) == whole.body
    daemon.verify(whole.body, PAYLOAD, context="c", audience="a")


@pytest.mark.parametrize("accept", ["text/html", "*/*;q=0", "application/jose"])
def test_nothing_acceptable_is_406(daemon: Daemon, accept: str) -> None:
    refused(daemon.post("/v1/sign", PAYLOAD, Accept=accept), 406, "usage.accept")
    for path in ("/v1/sign", "/v1/keys/one-bundle/sign", "/v1/keys/one-raw/sign"):
        refused(send(daemon, path, [data(b"x")], Accept=accept), 406, "usage.accept")
    refused(daemon.post("/v1/sign", PAYLOAD, Accept="nothing"), 400, "usage")


@pytest.mark.parametrize("use", [use for use in FORMATS if use != "ssh"])
def test_accept_agrees_with_the_keys_use(daemon: Daemon, use: str) -> None:
    reply = sign(daemon, f"one-{use}", use, PAYLOAD)
    kind = reply.headers["Content-Type"]
    path, body = f"/v1/keys/one-{use}/sign", json.dumps({"nonce": "ab" * 8}).encode() if use == "eat" else PAYLOAD
    media = "application/json" if use == "eat" else "application/octet-stream"
    assert daemon.post(path, body, Accept=f"text/html, {kind}", Content_Type=media).status == 200
    others = {"application/jose", "application/cose", "application/eat+jwt", "application/octet-stream"} - {kind}
    for other in others:
        refused(daemon.post(path, body, Accept=other, Content_Type=media), 406, "usage.accept")
    if use != "bundle":
        refused(daemon.post(path, body, Accept=compact.MEDIA_TYPE, Content_Type=media), 406, "usage.accept")


def test_a_refused_form_reads_no_body(daemon: Daemon) -> None:
    status, answer = daemon.curl(
        *("-H", "Expect:", "-H", "Accept: text/html", "-H", "Transfer-Encoding: chunked", "-T", "/dev/zero"),
        *("-X", "POST", "--max-time", "20", "http://agent/v1/sign"),
    )
    assert (status, json.loads(answer)["code"]) == (406, "usage.accept")


def test_attachments_of_no_signature_are_not_there(daemon: Daemon) -> None:
    refused(daemon.request("GET", f"/v1/attachments/{'0' * 128}"), 404, "usage.attachments")
    for name in ("0" * 127, "0" * 129, "G" * 128, "A" * 128, "%2e%2e"):
        refused(daemon.request("GET", f"/v1/attachments/{name}"), 400, "usage")
    refused(daemon.post(f"/v1/attachments/{'0' * 128}"), 405, "usage.method")
    found = compact.decode(daemon.post("/v1/sign", PAYLOAD, Accept=compact.MEDIA_TYPE).body).attachments.hex()
    refused(daemon.request("GET", f"/v1/attachments/{found}", Accept="text/html"), 406, "usage.accept")
    refused(daemon.request("GET", f"/v1/attachments/{found}?x=1"), 400, "usage")


def test_attachments_outlive_the_key(daemon: Daemon) -> None:
    """A bundle that was given away stays verifiable when its key is destroyed."""
    create(daemon, "gone", "bundle")
    short = daemon.post("/v1/keys/gone/sign", PAYLOAD, Accept=compact.MEDIA_TYPE).body
    assert daemon.request("DELETE", "/v1/keys/gone").status == 200
    daemon.verify(joined(daemon, short), PAYLOAD)


def test_who_may_not_list_a_key_gets_no_attachments_of_it(daemon: Daemon) -> None:
    """Without rules the members of the group have their own keys and the agent's, and no others."""
    short = daemon.post("/v1/keys/one-bundle/sign", PAYLOAD, Accept=compact.MEDIA_TYPE).body
    url = f"http://agent/v1/attachments/{compact.decode(short).attachments.hex()}"
    status, answer = daemon.curl(url, user=as_user(MEMBER, GROUP))
    assert (status, json.loads(answer)["code"]) == (403, "denied.policy")
    own = daemon.post("/v1/sign", PAYLOAD, Accept=compact.MEDIA_TYPE).body
    url = f"http://agent/v1/attachments/{compact.decode(own).attachments.hex()}"
    assert daemon.curl(url, user=as_user(MEMBER, GROUP))[0] == 200


# Batches


@pytest.mark.parametrize("path", ["/v1/sign", "/v1/keys/one-bundle/sign"])
def test_each_bundle_of_a_batch_verifies_by_itself(daemon: Daemon, path: str) -> None:
    reply = send(daemon, f"{path}?context=c", [*map(data, ALL), {"digest": DIGEST}])
    assert (reply.status, reply.headers["Content-Type"]) == (200, bulk.TYPE)
    answer = reply.json
    assert answer.keys() == {"attachments", "signatures"}
    for payload, one in zip([*ALL, b"digested"], answer["signatures"], strict=True):
        short = canonical.encode(one)
        assert one["attachments"] == answer["attachments"]
        daemon.verify(joined(daemon, short), payload, context="c")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_raw_signatures_of_a_batch(daemon: Daemon, algorithm: str, tmp_path: Path) -> None:
    name = f"raw-{algorithm.lower()}"
    create(daemon, name, "raw", algorithm)
    payloads = [b"one", b"two", b"three" * 1000]
    reply = send(daemon, f"/v1/keys/{name}/sign", [*map(data, payloads)])
    assert reply.json.keys() == {"signatures"}
    key = document(daemon, name)
    for payload, one in zip(payloads, reply.json["signatures"], strict=True):
        openssl(base64.b64decode(one), key, payload, tmp_path)
    own = ALGORITHMS[algorithm].hash
    digest = {"alg": own, "digest": hashlib.new(own.replace("-", ""), ALL[2]).hexdigest(), "size": 5000} if own else {}
    reply = send(daemon, f"/v1/keys/{name}/sign", [{"digest": digest}])
    if not own:
        refused(reply, 400, "format")
        return
    openssl(base64.b64decode(reply.json["signatures"][0]), key, ALL[2], tmp_path)
    for bad in ({**digest, "alg": "sha-512"}, {**digest, "digest": "00"}, {**digest, "size": -1}):
        refused(send(daemon, f"/v1/keys/{name}/sign", [{"digest": bad}]), 400, "format")


def test_jws_and_cose_of_a_batch(daemon: Daemon) -> None:
    asked = judge(daemon)
    made = send(daemon, "/v1/keys/one-jws/sign?context=c&typ=JWT", [*map(data, ALL)]).json["signatures"]
    for payload, one in zip(ALL, made, strict=True):
        verdict = verify_jws(one.encode(), document(daemon, "one-jws"), asked, payload=payload, context="c")
        assert verdict.said["typ"] == "JWT"
    made = send(daemon, "/v1/keys/one-cose/sign?detached=true", [*map(data, ALL)]).json["signatures"]
    for payload, one in zip(ALL, made, strict=True):
        verify_cose(base64.b64decode(one), document(daemon, "one-cose"), asked, payload=payload)


def test_a_batch_keeps_to_use_and_options(daemon: Daemon) -> None:
    items = [data(b"x")]
    for use in set(FORMATS) - {"bundle", "raw", "jws", "cose"}:
        refused(send(daemon, f"/v1/keys/one-{use}/sign", items), 400, "usage.batch")
    refused(send(daemon, "/v1/keys/one-jws/sign?format=bundle", items), 409, "usage.key-use")
    refused(send(daemon, "/v1/keys/one-raw/sign?context=c", items), 400, "usage")
    refused(send(daemon, "/v1/keys/one-jws/sign?typ=eat%2Bjwt", items), 400, "format")
    refused(send(daemon, "/v1/keys/one-cose/sign?detached=1", items), 400, "usage")
    refused(send(daemon, "/v1/keys/one-jws/sign", [{"digest": DIGEST}]), 400, "format")


def test_a_bad_payload_is_named_by_its_place(daemon: Daemon) -> None:
    for path in ("/v1/sign", *(f"/v1/keys/one-{use}/sign" for use in ("bundle", "raw", "jws", "cose"))):
        reply = send(daemon, path, [*[data(b"x")] * 999, {"data": "!"}])
        refused(reply, 400, "format")
        assert reply.json["detail"].startswith("payloads[999]: ")
        refused(send(daemon, path, [data(b"x")] * 1001), 400, "format")
        refused(daemon.post(path, b" " * (bulk.MAX_BYTES + 1), Content_Type=bulk.TYPE), 413, "format.oversized")


def test_every_signature_is_counted_and_none_of_a_refused_batch(pki_state: Path) -> None:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as simulator:
        with running_daemon(simulator, folder) as daemon:
            create(daemon, "raw", "raw")
            for path in ("/v1/sign", "/v1/keys/raw/sign"):
                refused(send(daemon, path, [*[data(b"x")] * 999, {"data": "!"}]), 400, "format")
                assert len(send(daemon, path, [data(b"x")] * 1000).json["signatures"]) == 1000
                assert daemon.post(path, PAYLOAD, Accept="*/*").status == 200
            assert daemon.terminate() == 0
        counted: Counter[str] = Counter()
        for kind, fields in told(folder / "audit"):
            if kind == "key.signed":
                counted[fields["key_id"]] += fields["count"]
        assert list(counted.values()) == [1001, 1001]
