"""Retries of the client: what is new in each try, what ends them, how long they wait. No network, no waiting."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from agent.core import binding
from agent.core.config import TasConfig
from agent.core.errors import (
    DeadlineExceeded,
    Denied,
    FirmwareBusy,
    NoTee,
    ProtocolError,
    ServerError,
    TeeAgentError,
    TlsError,
    TransportError,
)
from agent.core.exchange import Wrapped
from agent.core.model import Endorsements, Evidence, Nonce, Secret, Tee
from agent.core.ports import Deadline as AnyDeadline
from agent.deadline import Deadline
from agent.tas_client import TasClient
from tests.support.clock import FakeClock
from tests.support.quotes import NoOtherQuotes
from tests.unit.agent.test_exchange import GCM, Reply, encoded, reply

GOOD = reply(200, {"secret_key": encoded(GCM)})
BUSY = reply(503, {"error": "busy"})


class World(NoOtherQuotes):
    """A client whose surroundings are all scripted."""

    def __init__(self, *secrets: Reply | TeeAgentError, config: dict[str, Any] | None = None) -> None:
        self.clock = FakeClock()
        self.secrets = deque(secrets)
        self.nonces: deque[Reply | TeeAgentError] = deque()
        self.quote_errors: deque[TeeAgentError] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.quoted: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.keys = 0
        self.slowness = 0.0
        self.notices: list[str] = []
        settings = TasConfig(url="https://t", pins=(), api_key_file=Path("/k"), **(config or {}))
        self.client = TasClient(
            settings, self, self, lambda _: Endorsements((b"vcek",)), api_key="id", new_key=self.new_key,
            notice=self.notices.append, chance=lambda: 0.5,
        )  # fmt: skip

    def fetch(self, seconds: float = 60.0) -> bytes:
        with self.client.fetch_secret("disk", Deadline(seconds, "fetch", self.clock)) as secret:
            return bytes(secret.reveal())

    def request(
        self, method: str, path: str, *, headers: dict[str, str], body: bytes, max_bytes: int, deadline: AnyDeadline
    ) -> Reply:
        self.headers.append(headers)
        assert 0 < deadline.remaining() <= 20
        if path == "/kb/v0/get_secret":
            self.bodies.append(json.loads(body))
            answer = self.secrets.popleft()
            self.clock.now += self.slowness
        elif self.nonces:
            answer = self.nonces.popleft()
        else:
            answer = reply(200, {"nonce": f"{len(self.headers):064x}"})
        if isinstance(answer, TeeAgentError):
            raise answer
        return answer

    def new_key(self) -> Key:
        self.keys += 1
        return Key(b"key %d" % self.keys)

    def tas(self, nonce: Nonce, wrapping_key: bytes, *, deadline: AnyDeadline) -> Evidence:
        if self.quote_errors:
            raise self.quote_errors.popleft()
        self.quoted.append(binding.tas(nonce, wrapping_key).value)
        return Evidence(Tee.SNP, self.quoted[-1])


class Key:
    def __init__(self, public_der: bytes) -> None:
        self.public_der = public_der

    def unseal(self, wrapped: Wrapped) -> Secret:
        return Secret(wrapped.blob)


def test_first_try() -> None:
    world = World(GOOD)
    assert world.fetch() == b"sealed"
    assert world.clock.now == 0
    assert world.headers[0]["X-API-KEY"] == world.headers[1]["X-API-KEY"] == "id"
    assert world.bodies[0]["endorsements"]["certificates"]
    assert world.notices == []


def test_added_root_is_told() -> None:
    world = World(reply(200, {"secret_key": encoded(GCM), "trust": "added-root"}))
    world.fetch()
    assert "added root" in world.notices[0]


def test_every_try_has_a_new_nonce_key_and_evidence() -> None:
    world = World(BUSY, TransportError("cut"), reply(401, {"error": "Invalid or expired nonce"}), GOOD)
    world.fetch()
    for name in ("nonce", "wrapping-key", "tee-evidence"):
        assert len({body[name] for body in world.bodies}) == 4
    assert len(set(world.quoted)) == 4


def test_failures_before_the_secret_are_retried_too() -> None:
    world = World(GOOD)
    world.nonces.extend([TransportError("refused"), reply(429, {}, retry_after="3"), reply(200, {"nonce": "a" * 64})])
    world.quote_errors.append(FirmwareBusy("busy"))
    assert world.fetch() == b"sealed"
    assert len(world.bodies) == 1


def test_waits_grow_with_jitter_and_honour_retry_after() -> None:
    world = World(BUSY, BUSY, reply(429, {}, retry_after="10"), reply(500, {}, retry_after="50"), GOOD)
    world.fetch()
    assert world.clock.sleeps == [0.25, 0.5, 10.0, 2.0]


FINAL: list[Reply | TeeAgentError] = [
    reply(400, {"error": "TEE verification failed"}),
    reply(401, {"error": "Unauthorized"}),
    reply(403, {}),
    reply(404, {"error": "Secret retrieval failed"}),
    reply(413, {}),
    reply(302, {}),
    Reply(200, b"no json"),
    TlsError("another key"),
]


@pytest.mark.parametrize("answer", FINAL, ids=range(len(FINAL)))
def test_final_answers_end_it(answer: Reply | TeeAgentError) -> None:
    world = World(answer, GOOD)
    with pytest.raises((Denied, ProtocolError, TlsError)):
        world.fetch()
    assert len(world.bodies) == 1


def test_no_tee_ends_it() -> None:
    world = World(GOOD)
    world.quote_errors.append(NoTee("none"))
    with pytest.raises(NoTee):
        world.fetch()
    assert world.bodies == []


def test_attempts_are_bounded() -> None:
    world = World(*[BUSY] * 9, config={"attempts": 3})
    with pytest.raises(ServerError, match="503"):
        world.fetch()
    assert len(world.bodies) == 3


def test_the_deadline_ends_it_and_names_the_last_failure() -> None:
    world = World(*[reply(503, {"error": "busy"}, retry_after="5")] * 9)
    with pytest.raises(DeadlineExceeded, match=r"fetch: not done within 12 s; 3 failed, the last: .*503 \(busy\)"):
        world.fetch(12.0)
    assert world.clock.now == 10.0


def test_a_slow_request_is_given_up_for_another() -> None:
    world = World(DeadlineExceeded("POST: not done within 20 s"), GOOD)
    assert world.fetch() == b"sealed"
    assert len(world.bodies) == 2


def test_a_slow_request_at_the_end_is_the_end() -> None:
    world = World(DeadlineExceeded("POST: not done"), GOOD)
    world.slowness = 5.0
    with pytest.raises(DeadlineExceeded, match="fetch: not done within 5 s; 1 failed, the last: POST: not done"):
        world.fetch(5.0)
    assert len(world.bodies) == 1


def test_version_and_nonce() -> None:
    world = World()
    assert world.client.nonce(Deadline(9, "t", world.clock)) == Nonce(f"{1:064x}")
    world.nonces.append(reply(200, {"version": "0.1.0"}))
    assert world.client.version(Deadline(9, "t", world.clock)) == "0.1.0"
    world.nonces.append(reply(500, {}))
    with pytest.raises(ServerError):
        world.client.nonce(Deadline(9, "t", world.clock))


def test_key_id_field_by_configuration() -> None:
    world = World(GOOD, config={"secret_field": "key-id"})
    world.fetch()
    assert world.bodies[0]["key-id"] == "disk"
