"""Where a key is kept, told by a real daemon's statements and bound by its evidence, before and after a restart."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import BindingMismatch, SignatureInvalid
from agent.core.statement import STORAGES
from agent.verify.keydoc import verify_key
from tests.support import daemon as daemons
from tests.support import derived, keys
from tests.support.daemon import Daemon, open_folder, running_daemon
from tests.support.released import TABLES, running_world, tas_table
from tests.support.simulator import running_simulator
from tests.support.waiting import awaited

pytestmark = [pytest.mark.fuse, pytest.mark.root]
PAYLOAD = b"what was to be signed\n"


@dataclass(frozen=True)
class World:
    """The first life of a daemon, and the way to its next, on the same disk."""

    kind: str
    first: Daemon
    again: Callable[[], Daemon]


@pytest.fixture(params=["snp tas", "tdx tas", "snp snp-derived"])
def world(request: pytest.FixtureRequest, pki_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    tee, kind = request.param.split()
    with ExitStack() as stack:
        if kind == "tas":
            found = stack.enter_context(running_world(tee, pki_state))
            service = found.service
            more = tas_table(service.url, service.api_key_file, service.pin, deadline_seconds=10) + TABLES
            first = found.daemon
        else:
            monkeypatch.setattr(daemons, "CLI", [sys.executable, "-c", derived.LAUNCH, str(pki_state)])
            folder = stack.enter_context(open_folder())
            simulator = stack.enter_context(running_simulator(tee, folder, pki_state))
            more = '[sealing]\nroot = "snp-derived"\n'
            first = stack.enter_context(running_daemon(simulator, folder, more))

        def again() -> Daemon:
            assert first.terminate() == 0
            return opened(stack.enter_context(running_daemon(first.simulator, first.folder, more)))

        yield World(kind, opened(first), again)


def opened(daemon: Daemon) -> Daemon:
    awaited(lambda: daemon.status()["persistent_keys"], lambda found: found["open"] and not found["locked"])
    return daemon


def listed(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """By name and generation; the agent's own by "agent"."""
    found = daemon.request("GET", "/v1/keys").json["keys"]
    return {f"{key['name']}#{key['generation']}" if "name" in key else "agent": key for key in found}


def storages(daemon: Daemon) -> dict[str, str]:
    found = listed(daemon)
    assert all(key["storage"] == key["statement"]["storage"] for key in found.values())
    assert all(key["persistent"] is (key["storage"] != "memory") for name, key in found.items() if name != "agent")
    return {name: key["storage"] for name, key in found.items()}


def judged(daemon: Daemon, name: str, kept: str) -> None:
    """The key's document is believed for what it says, refused for what it doesn't, and can't be made to say it."""
    document, judge = keys.document(daemon, name), keys.judge(daemon)
    verdict = verify_key(document, replace(judge, storage=frozenset({kept})))
    assert verdict.to_json()["statement"]["storage"] == kept
    for other in STORAGES - {kept}:
        asked = replace(judge, storage=frozenset({other}))
        with pytest.raises(BindingMismatch, match=f"storage is {kept}, not {other}"):
            verify_key(document, asked)
        with pytest.raises(BindingMismatch) as caught:
            verify_key(flipped(document, kept, other), asked)
        assert caught.value.checks[-1].name == "REPORT_DATA"


def flipped(document: bytes, kept: str, other: str) -> bytes:
    was, now = (b'"storage":"%b"' % one.encode() for one in (kept, other))
    assert document.count(was) == 1
    return document.replace(was, now)


def signed(daemon: Daemon, path: str, kept: str) -> bytes:
    """A bundle that says so, and whose signature covers it."""
    bundle = daemon.post(path, PAYLOAD).body
    daemon.verify(bundle, PAYLOAD, storage=frozenset({kept}))
    for other in STORAGES - {kept}:
        with pytest.raises(BindingMismatch, match="storage"):
            daemon.verify(bundle, PAYLOAD, storage=frozenset({other}))
        with pytest.raises(SignatureInvalid):
            daemon.verify(flipped(bundle, kept, other), PAYLOAD)
    return bundle


def test_a_persistent_key_says_its_root_s_kind_and_every_other_memory(world: World) -> None:
    daemon, kind = world.first, world.kind
    for name, persistent in (("lasting", True), ("passing", False)):
        assert keys.create(daemon, name, "bundle", persistent=persistent)["storage"] == (
            kind if persistent else "memory"
        )
    assert daemon.post("/v1/keys/lasting/rotate").json["storage"] == kind
    assert daemon.post("/v1/keys/passing/rotate").json["storage"] == "memory"
    said = {"agent": "memory", "lasting#1": kind, "lasting#2": kind, "passing#1": "memory", "passing#2": "memory"}
    assert storages(daemon) == said
    judged(daemon, "lasting", kind)
    judged(daemon, "passing", "memory")
    signed(daemon, "/v1/sign", "memory")
    signed(daemon, "/v1/keys/passing/sign", "memory")
    old, before = signed(daemon, "/v1/keys/lasting/sign", kind), listed(daemon)

    daemon = world.again()
    assert storages(daemon) == {"agent": "memory", "lasting#1": kind, "lasting#2": kind}
    after = listed(daemon)
    for name in ("lasting#1", "lasting#2"):
        assert after[name]["id"] == before[name]["id"]
        assert after[name]["statement"] != before[name]["statement"]
    assert after["agent"]["id"] != before["agent"]["id"]
    judged(daemon, "lasting", kind)
    assert signed(daemon, "/v1/keys/lasting/sign", kind) != old
    daemon.verify(old, PAYLOAD, storage=frozenset({kind}))
    assert daemon.post("/v1/keys/lasting/rotate").json["storage"] == kind
    assert keys.create(daemon, "passing", "raw")["storage"] == "memory"
    judged(daemon, "passing", "memory")
