"""Named keys over the socket: nobody's keys but one's own, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import GROUP, MEMBER, STRANGER, Daemon, as_user, open_folder, running_daemon
from tests.support.keys import create, refused
from tests.support.simulator import running_simulator

pytestmark = pytest.mark.fuse
OTHER = 64105
"""Another user in the group that may use the socket."""


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with (
        open_folder() as folder,
        running_simulator("snp", folder, pki_state) as simulator,
        running_daemon(simulator, folder) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def made(daemon: Daemon) -> str:
    """A key's name."""
    create(daemon, "one", "raw")
    return "one"


def as_curl(daemon: Daemon, uid: int, method: str, path: str, said: dict[str, Any] | None = None) -> tuple[int, Any]:
    words = ["-X", method, f"http://agent{path}"]
    words += ["--json", json.dumps(said)] if said is not None else []
    status, body = daemon.curl(*words, user=as_user(uid, GROUP))
    return status, json.loads(body) if body.startswith(b"{") else body


def test_namespaces_keep_users_apart(daemon: Daemon) -> None:
    said = {"name": "mine", "use": "raw"}
    (created, mine), (also, theirs) = (as_curl(daemon, uid, "POST", "/v1/keys", said) for uid in (MEMBER, OTHER))
    assert (created, also) == (201, 201)
    assert (mine["namespace"], theirs["namespace"]) == (f"uid-{MEMBER}", f"uid-{OTHER}")
    assert mine["id"] != theirs["id"]
    _, seen = as_curl(daemon, MEMBER, "GET", "/v1/keys")
    assert [key["id"] for key in seen["keys"] if "name" in key] == [mine["id"]]
    _, all_ = as_curl(daemon, 0, "GET", "/v1/keys")
    assert {mine["id"], theirs["id"]} <= {key["id"] for key in all_["keys"]}
    where = f"?namespace=uid-{OTHER}"
    for method, path in (
        ("GET", "/v1/keys/mine"),
        ("DELETE", "/v1/keys/mine"),
        ("POST", "/v1/keys/mine/rotate"),
        ("POST", "/v1/keys/mine/sign"),
        ("GET", "/v1/keys/mine/attestation"),
        ("GET", "/v1/keys/absent"),
    ):
        status, answer = as_curl(daemon, MEMBER, method, path + where)
        assert (status, answer["code"]) == (403, "denied.policy"), path
    status, answer = as_curl(daemon, MEMBER, "POST", "/v1/keys", {**said, "namespace": f"uid-{OTHER}"})
    assert (status, answer["code"]) == (403, "denied.policy")
    assert as_curl(daemon, STRANGER, "GET", "/v1/keys/mine" + where)[0] == 403
    assert as_curl(daemon, 0, "DELETE", "/v1/keys/mine" + where) == (200, {"destroyed": f"uid-{OTHER}/mine"})
    assert as_curl(daemon, OTHER, "GET", "/v1/keys/mine")[0] == 404
    assert as_curl(daemon, MEMBER, "GET", "/v1/keys/mine")[1]["id"] == mine["id"]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"name": "x"},
        {"use": "raw"},
        {"name": "X", "use": "raw"},
        {"name": "a/b", "use": "raw"},
        {"name": "x", "use": "internal"},
        {"name": "x", "use": "raw", "algorithm": "RSA"},
        {"name": "x", "use": "ssh", "algorithm": "ECDSA-secp256k1"},
        {"name": "x", "use": "raw", "lifetime_seconds": 0},
        {"name": "x", "use": "raw", "lifetime_seconds": True},
        {"name": "x", "use": "raw", "lifetime_seconds": 1},
        {"name": "x", "use": "raw", "namespace": "a/b"},
        {"name": "x", "use": "raw", "more": 1},
    ],
    ids=json.dumps,
)
def test_what_can_not_be_created(daemon: Daemon, said: dict[str, Any]) -> None:
    reply = daemon.post("/v1/keys", json.dumps(said).encode(), Content_Type="application/json")
    assert (reply.status, reply.json["code"]) in ((400, "format"), (400, "usage"))
    assert daemon.request("GET", "/v1/keys/x").status == 404


def test_a_name_is_taken_once(daemon: Daemon, made: str) -> None:
    said = json.dumps({"name": made, "use": "raw"}).encode()
    refused(daemon.post("/v1/keys", said, Content_Type="application/json"), 409, "conflict.key")


def test_requests_that_are_wrong(daemon: Daemon, made: str) -> None:
    path = f"/v1/keys/{made}"
    refused(daemon.request("PUT", path), 405, "usage.method")
    refused(daemon.request("GET", f"{path}/sign"), 405, "usage.method")
    refused(daemon.request("GET", f"{path}/export"), 404, "usage.path")
    refused(daemon.request("GET", "/v1/keys/"), 404, "usage.path")
    refused(daemon.request("GET", "/v1/keys/UPPER"), 400, "usage")
    refused(daemon.request("GET", f"{path}?generation=-1"), 400, "usage")
    refused(daemon.request("GET", f"{path}?generation=%D9%A1"), 400, "usage")
    refused(daemon.request("GET", f"{path}?generation=2"), 404, "usage.key")
    refused(daemon.request("GET", f"{path}?private=1"), 400, "usage")
    refused(daemon.post(f"{path}/rotate", b"{}", Content_Type="text/plain"), 400, "usage.type")
    refused(daemon.post("/v1/keys", b"{}"), 400, "usage.type")


def test_the_status_counts_them(daemon: Daemon, made: str) -> None:
    found = daemon.status()["named_keys"]
    assert found["generations"] >= 1, made
    assert (found["waiting"], found["trouble"]) == (0, None)


def test_the_agents_own_key_is_nobody_s_by_name(daemon: Daemon) -> None:
    own = daemon.request("GET", "/v1/keys").json["keys"][0]
    assert ("name" in own, own["use"], own["statement"]["owner"]) == (False, "bundle", "agent")
    refused(daemon.request("GET", "/v1/keys/agent"), 404, "usage.key")
