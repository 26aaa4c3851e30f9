"""Fresh challenges against a real daemon: what tests ask for, and a hardware that stalls while they look."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.daemon import Daemon, Reply, open_folder, running_daemon
from tests.support.simulator import Simulator
from tests.support.waiting import awaited

BATCH_TYPE = "application/vnd.tee-agent.batch+json"
NONCE = bytes(range(32))
GOOD = {"nonce": "00" * 16}
"""A challenge."""


@contextmanager
def daemon_with_keys(simulator: Simulator) -> Iterator[Daemon]:
    """One that has keys for bundles, ``one`` and ``two`` of other algorithms, and ``letters`` for JWS."""
    with open_folder() as folder, running_daemon(simulator, folder, audience="rp.example") as running:
        for name, algorithm in (("one", "Ed25519"), ("two", "ECDSA-P384")):
            assert make(running, name, algorithm=algorithm).status == 201
        assert make(running, "letters", use="jws").status == 201
        yield running


@contextmanager
def stalling(simulator: Simulator, daemon: Daemon) -> Iterator[Callable[[], None]]:
    """From the next report on the hardware stalls, until what this gives is called (or it ends)."""
    daemon.challenge(nonce=NONCE.hex())  # the one that the fault lets pass
    simulator.fault("throttle:1:600")
    try:
        yield simulator.clear
    finally:
        simulator.clear()


def make(daemon: Daemon, name: str, **fields: Any) -> Reply:
    document = {"name": name, "use": "bundle", **fields}
    return daemon.post("/v1/keys", json.dumps(document).encode(), Content_Type="application/json")


def batch(daemon: Daemon, *challenges: dict[str, Any]) -> Reply:
    return daemon.post("/v1/challenge", json.dumps({"challenges": challenges}).encode(), Content_Type=BATCH_TYPE)


def waiting(daemon: Daemon) -> int:
    found: int = daemon.status()["challenges"]["waiting"]
    return found


def until_waiting(daemon: Daemon, count: int) -> None:
    """Until so many challenges wait for a quote."""
    awaited(lambda: waiting(daemon), lambda found: found == count)


def nonce_of(number: int) -> bytes:
    return b"nonce of %08d" % number
