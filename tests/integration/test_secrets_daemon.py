"""POST /v1/secrets/NAME on a real daemon with a real attestation service: who gets what, and nobody a volume's."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.client import Client
from agent.daemon.names import FETCHER as FETCHER_ROLE
from agent.daemon.names import QUOTER as QUOTER_ROLE
from agent.daemon.names import socket_path
from agent.deadline import Deadline
from agent.unseal import WrappingKey
from tests.support.access import rule
from tests.support.chosen import ask
from tests.support.daemon import FETCHER, GROUP, MEMBER, SIGNER, STRANGER, Reply, as_user
from tests.support.released import World, running_world
from tests.support.waiting import awaited

pytestmark = [pytest.mark.fuse, pytest.mark.root]
OTHER = MEMBER + 1
RULES = [
    rule("db", who={"user": str(MEMBER)}, operations="secret", secrets=["db"]),
    rule("member", who={"user": str(MEMBER)}, operations=["status", "seal", "unseal"]),
    rule("other", who={"user": str(OTHER)}, operations="*"),
]
NONCE = "ab" * 32


@pytest.fixture(scope="module")
def world(pki_state: Path) -> Iterator[World]:
    with running_world("snp", pki_state, RULES) as running:
        yield running


def get(world: World, name: str, uid: int) -> tuple[int, Any]:
    """The secret as bytes, or the problem's code."""
    status, said = world.daemon.curl("-X", "POST", f"http://agent/v1/secrets/{name}", user=as_user(uid, GROUP))
    return status, said if status == 200 else json.loads(said)["code"]


def names(world: World, uid: int) -> Any:
    status, said = world.daemon.curl("http://agent/v1/secrets", user=as_user(uid, GROUP))
    found = json.loads(said)
    return [one["name"] for one in found["secrets"]] if status == 200 else found["code"]


def test_who_gets_which(world: World) -> None:
    assert get(world, "db", MEMBER) == (200, world.service.secret("db"))
    assert get(world, "api", MEMBER) == (403, "denied.policy")
    # No rule names a secret for this one, though it may do everything else.
    assert get(world, "db", OTHER) == (403, "denied.policy")
    assert get(world, "db", STRANGER) == (403, "denied")
    found = world.daemon.post("/v1/secrets/api")
    assert (found.status, found.body) == (200, world.service.secret("api"))
    assert found.headers["Content-Type"] == "application/octet-stream"
    assert found.headers["Cache-Control"] == "no-store"


def test_the_list(world: World) -> None:
    assert names(world, MEMBER) == ["db"]
    assert names(world, OTHER) == []
    assert names(world, STRANGER) == "denied"
    assert names(world, 0) == ["api", "db", "gone"]


def test_our_own_client(world: World) -> None:
    client, deadline = Client(world.daemon.socket), Deadline(60, "test")
    assert client.secret("db", deadline) == world.service.secret("db")
    assert client.secrets(deadline) == {"secrets": [{"name": name} for name in ("api", "db", "gone")]}


def test_a_secret_that_the_service_does_not_release(world: World) -> None:
    found = world.daemon.post("/v1/secrets/gone")
    assert (found.status, found.json["code"]) == (502, "secret.refused")
    assert "the service answered 400" in found.json["detail"]
    failed = awaited(
        lambda: [one for one in world.audit() if one["kind"] == "failed" and "gone" in one["fields"]["what"]]
    )
    assert [one["fields"]["code"] for one in failed] == ["secret.refused"]


@pytest.mark.parametrize(
    "name", ["disk", "disk-1", "root", "sealing", "sealing-1", "db-1", "x", "-", "%2e%2e", "a" * 65]
)
def test_there_is_no_other_name(world: World, name: str) -> None:
    assert get(world, name, 0) == (404, "usage.secret")


def test_requests_that_are_not_as_described(world: World) -> None:
    def refused(reply: Reply) -> tuple[int, str]:
        return reply.status, reply.json["code"]

    daemon = world.daemon
    assert refused(daemon.post("/v1/secrets/db", b"policy_id=disk-1")) == (413, "format.oversized")
    assert refused(daemon.post("/v1/secrets/db?policy_id=disk-1")) == (400, "usage")
    assert refused(daemon.request("GET", "/v1/secrets/db")) == (405, "usage.method")
    assert refused(daemon.post("/v1/secrets")) == (405, "usage.method")
    assert refused(daemon.request("GET", "/v1/secrets?all=1")) == (400, "usage")


def frame(method: str, **params: Any) -> bytes:
    body = json.dumps({"method": method, "params": params}).encode()
    return struct.pack(">I", len(body)) + body


def told(world: World, role: str, uid: int, *frames: bytes) -> list[str]:
    return ask(socket_path(world.daemon.runtime, role), as_user(uid, GROUP), list(frames))


def test_a_stolen_signer_gets_no_policy_of_its_choice(world: World) -> None:
    """It may ask the fetcher by name only, and the quoter not at all for the service's form."""
    key = base64.b64encode(WrappingKey().public_der).decode()
    wrong: list[dict[str, Any]] = [
        {"what": name} for name in ("disk-1", "root", "volume", "db-1", "disk", "../disk", "")
    ]
    wrong += [{"what": "db", "policy_id": "disk-1"}, {"what": "db", "policy-id": "disk-1"}, {"what": ["disk-1"]}]
    wrong += [{"policy_id": "disk-1"}, {"what": "db", "secret_field": "key-id"}]
    frames = [frame("release", wrapping_key=key, **one) for one in wrong]
    assert all('"error"' in one for one in told(world, FETCHER_ROLE, SIGNER, *frames))
    (refused,) = told(world, QUOTER_ROLE, SIGNER, frame("tas", nonce=NONCE, wrapping_key=key))
    assert '"denied.peer"' in refused
    (derived,) = told(world, QUOTER_ROLE, SIGNER, frame("derived_key"))
    assert '"denied.derived-key"' in derived


def test_a_stolen_fetcher_can_open_nothing(world: World) -> None:
    """Evidence for the service comes over keys of the signer's only: what it releases, only the signer opens."""
    key = base64.b64encode(WrappingKey().public_der).decode()
    asked = [frame("tas", nonce=NONCE, wrapping_key=key), frame("announce", wrapping_key=key), frame("derived_key")]
    tas, announce, derived = told(world, QUOTER_ROLE, FETCHER, *asked)
    assert '"denied.wrapping-key"' in tas
    assert '"denied.peer"' in announce
    assert '"denied.peer"' in derived
    (own,) = told(world, FETCHER_ROLE, FETCHER, frame("release", what="db", wrapping_key=key))
    assert '"denied.peer"' in own


@pytest.mark.parametrize("uid", [MEMBER, STRANGER])
def test_applications_are_not_listened_to_behind_the_socket(world: World, uid: int) -> None:
    key = base64.b64encode(WrappingKey().public_der).decode()
    assert told(world, FETCHER_ROLE, uid, frame("release", what="db", wrapping_key=key)) == [""]
    assert told(world, QUOTER_ROLE, uid, frame("announce", wrapping_key=key), frame("derived_key")) == ["", ""]


def test_so_many_and_no_more(world: World) -> None:
    """Of one user; the others go on."""
    # As many as it takes; the first refusal is looked at, for there is one more every five seconds.
    words = ("-i", "-X", "POST", "http://agent/v1/secrets/db")
    granted, (status, said) = 0, world.daemon.curl(*words, user=as_user(MEMBER, GROUP))
    while status == 200 and granted < 200:
        assert said.endswith(b"\r\n\r\n" + world.service.secret("db"))
        granted, (status, said) = granted + 1, world.daemon.curl(*words, user=as_user(MEMBER, GROUP))
    head, _, body = said.partition(b"\r\n\r\n")
    assert (granted > 0, status, json.loads(body)["code"]) == (True, 429, "server.budget")
    assert b"Retry-After: " in head
    assert get(world, "db", 0) == (200, world.service.secret("db"))


def test_releases_and_refusals_are_in_the_audit_log(world: World) -> None:
    assert get(world, "api", MEMBER) == (403, "denied.policy")
    for name in ("db", "api"):
        assert get(world, name, 0) == (200, world.service.secret(name))
    released = [one for one in world.audit() if one["kind"] == "secret.released"]
    assert {(one["caller"]["uid"], one["fields"]["secret"]) for one in released} >= {(0, "db"), (0, "api")}
    assert all(one["severity"] == "notice" and one["fields"]["added_root"] is True for one in released)
    told_of = {"operation": "secret", "secret": "api"}.items()
    awaited(lambda: any(told_of <= one["fields"].items() for one in refusals(world)))


def refusals(world: World) -> list[Any]:
    return [one for one in world.audit() if one["kind"] == "denied" and one["caller"]["uid"] == MEMBER]


def test_the_volume_s_policy_was_never_asked_for(world: World) -> None:
    """Last in the file: after all of the above, and by its own names, the service has not heard of it."""
    for name in ("disk", "disk-1", "root"):
        assert get(world, name, 0) == (404, "usage.secret")
    assert get(world, "db", 0) == (200, world.service.secret("db"))
    decided = [line for line in world.service.log() if line.get("event") == "decision"]
    assert {line["policy"] for line in decided} <= {"db-1", "api-1", "no-such-policy", "sealing-1"}
    assert decided


def test_without_rules_only_root(pki_state: Path) -> None:
    with running_world("snp", pki_state) as world:
        assert get(world, "db", MEMBER) == (403, "denied.policy")
        assert names(world, MEMBER) == "denied.policy"
        assert get(world, "db", 0) == (200, world.service.secret("db"))
        client = Client(world.daemon.socket)
        assert client.secret("api", Deadline(60, "test")) == world.service.secret("api")
