"""Challenges that wait for a quote: who shares a tree, what a failure, an end, a leave or a stop does to them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.daemon import STOP_SECONDS, Daemon, dial, open_folder, running_daemon
from tests.support.fresh import (
    BATCH_TYPE,
    GOOD,
    batch,
    daemon_with_keys,
    make,
    nonce_of,
    stalling,
    until_waiting,
    waiting,
)
from tests.support.simulator import Simulator, running_simulator
from tests.support.waiting import awaited

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module", params=["snp", "tdx"])
def simulator(request: pytest.FixtureRequest, pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator(request.param, folder, pki_state) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    with daemon_with_keys(simulator) as running:
        yield running


@pytest.fixture
def stalled(simulator: Simulator, daemon: Daemon) -> Iterator[Callable[[], None]]:
    with stalling(simulator, daemon) as end:
        yield end


def test_callers_and_keys_share_one_tree(daemon: Daemon, stalled: Callable[[], None]) -> None:
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(daemon.challenge, nonce=nonce_of(0).hex())
        until_waiting(daemon, 1)
        rest = [
            threads.submit(daemon.post, f"/v1/keys/{name}/sign?fresh=true", name.encode()) for name in ("one", "two")
        ]
        rest.append(threads.submit(batch, daemon, {"nonce": nonce_of(1).hex()}, {"nonce": nonce_of(2).hex()}))
        until_waiting(daemon, 5)
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
        until_waiting(daemon, 1)
        assert daemon.request("DELETE", "/v1/keys/short").status == 200
        stalled()
        assert (asked.result().status, asked.result().json["code"]) == (404, "usage.key")


def test_who_leaves_gives_all_its_places_back(daemon: Daemon, stalled: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(daemon.challenge, nonce=nonce_of(0).hex())
        until_waiting(daemon, 1)
        said = json.dumps({"challenges": [GOOD] * 50}).encode()
        head = f"POST /v1/challenge HTTP/1.1\r\nHost: a\r\nContent-Type: {BATCH_TYPE}\r\nContent-Length: {len(said)}\r\n\r\n"
        with dial(daemon.socket) as sock:
            sock.sendall(head.encode() + said)
            until_waiting(daemon, 51)
        until_waiting(daemon, 1)
        stalled()
        assert first.result().status == 200


def test_waiting_challenges_are_answered_before_the_daemon_stops(simulator: Simulator) -> None:
    with open_folder() as folder, running_daemon(simulator, folder) as daemon:
        daemon.post("/v1/sign", b"x")
        simulator.fault("throttle:1:600")
        try:
            with ThreadPoolExecutor(2) as threads:
                asked = [threads.submit(daemon.challenge, nonce=nonce_of(number).hex()) for number in range(2)]
                until_waiting(daemon, 2)
                daemon.process.send_signal(signal.SIGTERM)
                awaited(lambda: not _takes_connections(daemon))
                simulator.clear()
                for number, future in enumerate(asked):
                    daemon.verify(future.result().body, b"", nonce=nonce_of(number))
        finally:
            simulator.clear()
        assert daemon.process.wait(STOP_SECONDS) == 0
        assert daemon.simulator_entries() == []


def _takes_connections(daemon: Daemon) -> bool:
    try:
        with dial(daemon.socket) as sock:
            sock.settimeout(1)
            sock.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n")
            return bool(sock.recv(1))
    except OSError:
        return False


def test_where_there_is_no_room_the_body_is_not_waited_for(simulator: Simulator) -> None:
    with (
        open_folder() as folder,
        running_daemon(simulator, folder, challenge_batch_max=1) as daemon,
        stalling(simulator, daemon) as end,
        ThreadPoolExecutor(1) as threads,
    ):
        first = threads.submit(daemon.challenge, nonce=nonce_of(0).hex())
        until_waiting(daemon, 1)
        with dial(daemon.socket) as sock:
            sock.settimeout(60)
            sock.sendall(b"POST /v1/sign?fresh=true HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nx")
            head = sock.recv(4096).partition(b"\r\n\r\n")[0].decode()
        assert head.startswith("HTTP/1.1 429 ")
        assert int(head.partition("Retry-After: ")[2].partition("\r\n")[0]) >= 1
        end()
        assert first.result().status == 200
