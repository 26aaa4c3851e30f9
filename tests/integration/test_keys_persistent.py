"""Persistent keys of a real daemon, sealed under what a real attestation service releases: over restarts and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent.core.algorithm import ALGORITHMS
from agent.core.errors import Conflict
from agent.core.keydoc import decode
from tests.support import keys
from tests.support.daemon import CLI, ROOT, STOP_SECONDS, Daemon, Reply, await_ready, open_folder, start, write_config
from tests.support.released import World, running_world
from tests.support.waiting import awaited

pytestmark = [pytest.mark.fuse, pytest.mark.root]
PAYLOAD = b"what was to be signed\n"


@pytest.fixture(scope="module", params=["snp", "tdx"])
def world(request: pytest.FixtureRequest, pki_state: Path) -> Iterator[World]:
    with running_world(request.param, pki_state) as running:
        opened(running.daemon)
        try:
            yield running
        finally:
            ended(running.daemon)


def state(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.status()["persistent_keys"]
    return found


def opened(daemon: Daemon) -> None:
    """The root is there, and evidence for every key."""
    awaited(lambda: state(daemon), lambda found: found["open"] and not found["locked"])


def ended(daemon: Daemon) -> None:
    daemon.process.terminate()
    try:
        daemon.process.wait(STOP_SECONDS)
    finally:
        daemon.process.kill()


def restart(world: World, end: signal.Signals = signal.SIGTERM, *, wait: bool = True) -> None:
    """Another daemon in the place of the world's; ``wait`` for its keys."""
    daemon = world.daemon
    if end is signal.SIGKILL:
        with suppress(ProcessLookupError):
            os.kill(daemon.role("signer"), signal.SIGKILL)
    ended(daemon)
    daemon.process, ear = start(daemon.folder, "daemon", "--config", str(daemon.config))
    with ear:
        await_ready(ear, daemon.process, daemon.folder)
    if wait:
        opened(daemon)


def listed(daemon: Daemon) -> dict[str, dict[str, Any]]:
    found = daemon.request("GET", "/v1/keys").json["keys"]
    return {f"{key['name']}#{key.get('generation', '')}": key for key in found if "name" in key}


def create(daemon: Daemon, name: str, **more: Any) -> Reply:
    said = json.dumps({"name": name, "use": "raw", **more}).encode()
    return daemon.post("/v1/keys", said, Content_Type="application/json")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_same_keys_sign_after_a_restart(world: World, tmp_path: Path, end: signal.Signals) -> None:
    daemon = world.daemon
    for name in ALGORITHMS:
        keys.create(daemon, name.lower(), "raw", name, persistent=True)
    for use in ("bundle", "jws", "cose", "eat"):
        keys.create(daemon, use, use, persistent=True)
    keys.create(daemon, "mortal", "raw")
    keys.create(daemon, "timed", "raw", persistent=True, lifetime_seconds=3600)
    assert daemon.post("/v1/keys/bundle/rotate").status == 200
    before = listed(daemon)
    old = keys.sign(daemon, "bundle", "bundle", PAYLOAD, "?generation=1").body
    daemon.verify(old, PAYLOAD)
    restart(world, end)
    after = listed(daemon)
    assert after.keys() == before.keys() - {"mortal#1"}
    for name, key in after.items():
        same = ("id", "spki", "algorithm", "use", "created", "ends", "newest", "generation", "namespace", "persistent")
        assert {field: key[field] for field in same} == {field: before[name][field] for field in same}
        assert key["persistent"]
        assert key["statement"] != before[name]["statement"]
    assert before["mortal#1"]["persistent"] is False
    for use in ("bundle", "raw", "jws", "cose", "eat"):
        name = "ed25519" if use == "raw" else use
        signed = keys.sign(daemon, name, use, PAYLOAD).body
        keys.verifiers(daemon, PAYLOAD, tmp_path)[use](signed, keys.document(daemon, name))
    for name in ALGORITHMS:
        signed = keys.sign(daemon, name.lower(), "raw", PAYLOAD).body
        keys.verifiers(daemon, PAYLOAD, tmp_path)["raw"](signed, keys.document(daemon, name.lower()))
    daemon.verify(keys.sign(daemon, "bundle", "bundle", PAYLOAD, "?generation=1").body, PAYLOAD)
    daemon.verify(old, PAYLOAD)
    told = [one["fields"] for one in world.audit() if one["kind"] == "key.restored"]
    restored = {(one["key"], one["generation"], one["key_id"], one["statement"]) for one in told}
    for key in after.values():
        assert (f"uid-0/{key['name']}", key["generation"], key["id"], digest(daemon, key)) in restored
    for name in {name.partition("#")[0] for name in after}:
        assert daemon.request("DELETE", f"/v1/keys/{name}").status == 200
    restart(world)
    assert listed(daemon) == {}


def digest(daemon: Daemon, key: dict[str, Any]) -> str:
    """Of the statement, as the key's document has it."""
    document = keys.document(daemon, key["name"], f"?generation={key['generation']}")
    return decode(document).statement.digest().hex()


def test_while_the_service_is_away_keys_are_locked(world: World) -> None:
    daemon, port = world.daemon, world.service.port
    keys.create(daemon, "kept", "raw", persistent=True)
    world.service.stop()
    restart(world, wait=False)
    for reply in (
        keys.sign(daemon, "kept", "raw", PAYLOAD),
        daemon.request("GET", "/v1/keys/kept"),
        daemon.request("DELETE", "/v1/keys/kept"),
        create(daemon, "other", persistent=True),
    ):
        assert (reply.status, reply.json["code"]) == (503, "server.locked")
        assert int(reply.headers["Retry-After"]) > 0
    assert create(daemon, "kept").json["code"] == "conflict.key"
    assert create(daemon, "meanwhile").status == 201
    held = listed(daemon)["kept#"]
    assert (held["state"], held["persistent"], held["namespace"]) == ("locked", True, "uid-0")
    assert cli(daemon, "keys", "list").decode().count("uid-0/kept persistent, locked: ") == 1
    assert state(daemon)["locked"] == 1
    world.service.start(port)
    opened(daemon)
    assert keys.sign(daemon, "kept", "raw", PAYLOAD).status == 200
    assert cli(daemon, "keys", "destroy", "kept") == b"destroyed uid-0/kept\n"
    assert daemon.request("DELETE", "/v1/keys/meanwhile").status == 200


def cli(daemon: Daemon, *words: str) -> bytes:
    argv = [*CLI, words[0], "--config", str(daemon.config), *words[1:]]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60, check=True).stdout


def test_the_command_line(world: World) -> None:
    line = cli(world.daemon, "keys", "create", "shop", "--use", "jws", "--persistent").decode()
    assert line.endswith(" tas until it is destroyed\n")
    assert line in cli(world.daemon, "keys", "list").decode()
    screen = subprocess.run(
        [*CLI, "status", "--config", str(world.daemon.config)], cwd=ROOT, capture_output=True, timeout=60, check=False
    ).stdout.decode()
    assert "persistent keys ok 1 usable" in " ".join(screen.split())
    cli(world.daemon, "keys", "destroy", "shop")


def test_a_broken_file_costs_its_own_key_only(world: World) -> None:
    for name in ("broken", "whole"):
        keys.create(world.daemon, name, "raw", persistent=True)
    (file,) = (world.daemon.folder / "keys").glob("uid-0@broken@*.key")
    file.write_bytes(file.read_bytes()[:-2])
    restart(world)
    daemon = world.daemon
    assert keys.sign(daemon, "whole", "raw", PAYLOAD).status == 200
    refused = keys.sign(daemon, "broken", "raw", PAYLOAD)
    assert (refused.status, refused.json["code"]) == (409, "conflict.broken")
    assert "persistent, broken: " in cli(daemon, "keys", "list").decode()
    (told,) = [one for one in world.audit() if one["kind"] == "key.broken"]
    assert (told["severity"], told["fields"]["key"]) == ("alert", "uid-0/broken")
    for name in ("broken", "whole"):
        assert daemon.request("DELETE", f"/v1/keys/{name}").status == 200
    assert not list((world.daemon.folder / "keys").glob("*.key"))
    destroyed = [one["fields"]["key"] for one in world.audit() if one["kind"] == "key.destroyed"]
    assert destroyed[-2:] == ["uid-0/broken", "uid-0/whole"]


def test_a_folder_that_was_put_back_is_told_by_the_audit_log(world: World, tmp_path: Path) -> None:
    daemon, folder = world.daemon, world.daemon.folder / "keys"
    keys.create(daemon, "destroyed", "raw", persistent=True)
    assert state(daemon)["doubts"] == []
    saved = tmp_path / "saved"
    subprocess.run(["cp", "-a", folder, saved], check=True, timeout=60)
    assert daemon.request("DELETE", "/v1/keys/destroyed").status == 200
    ended(daemon)
    subprocess.run(["rm", "-r", folder], check=True, timeout=60)
    subprocess.run(["cp", "-a", saved, folder], check=True, timeout=60)
    restart(world)
    (doubt,) = state(daemon)["doubts"]
    assert "the keys were put back" in doubt
    assert doubt.startswith([one for one in world.audit() if one["kind"] == "keys.strange"][-1]["fields"]["note"][:60])
    assert daemon.request("DELETE", "/v1/keys/destroyed").status == 200
    restart(world)
    assert state(daemon)["doubts"] == []


def test_two_daemons_on_one_folder_are_refused(world: World) -> None:
    more = (world.daemon.folder / "agent.toml").read_text().partition("[tas]")[2].partition("[endorsements]")[0]
    with open_folder() as folder:
        config = write_config(folder, world.simulator, f"[tas]{more}", keys_folder=str(world.daemon.folder / "keys"))
        process, ear = start(folder, "daemon", "--role", "signer", "--config", str(config))
        with ear:
            assert process.wait(STOP_SECONDS) == Conflict.exit_status
        assert "another process has these keys" in (folder / "daemon.log").read_text()


def test_nobody_but_the_signer_reads_the_folder(world: World) -> None:
    folder = world.daemon.folder / "keys"
    assert folder.stat().st_mode & 0o777 == 0o700
    uid = Path(f"/proc/{world.daemon.role('signer')}").stat().st_uid
    assert {path.stat().st_uid for path in (folder, *folder.iterdir())} == {uid}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_kills_at_any_time_lose_no_key_that_was_answered(world: World) -> None:
    """The signer dies while two callers make, rotate and destroy keys as fast as they can."""
    for turn in range(3):
        killed_while_busy(world, turn)


def killed_while_busy(world: World, turn: int) -> None:
    daemon = world.daemon
    answered: list[dict[str, Any]] = [{}, {}]
    callers = [threading.Thread(target=change, args=(daemon, f"t{turn}-{who}", answered[who])) for who in (0, 1)]
    for caller in callers:
        caller.start()
    awaited(lambda: sum(map(len, answered)), lambda keys: keys > 5)
    restart(world, signal.SIGKILL)
    for caller in callers:
        caller.join()
    assert state(daemon)["broken"] == 0
    found = {key["name"]: key for key in listed(daemon).values() if key["newest"]}
    for name, key_id in {**answered[0], **answered[1]}.items():
        if key_id is None:
            assert name not in found
        elif not key_id.endswith("?"):
            assert found[name]["id"] == key_id, name
    for name in found:
        assert daemon.request("DELETE", f"/v1/keys/{name}").status == 200


def change(daemon: Daemon, stem: str, answered: dict[str, Any]) -> None:
    """Until the daemon is gone. ``answered``: a key's newest id; with "?" while a change of it is under way; None
    once it is destroyed."""
    with suppress(OSError):
        for number in range(1000):
            name = f"{stem}-{number}"
            reply = create(daemon, name, persistent=True)
            if reply.status != 201:
                return
            answered[name] = reply.json["id"]
            if number % 3 == 1:
                answered[name] += "?"
                rotated = daemon.post(
                    f"/v1/keys/{name}/rotate", b'{"overlap_seconds": 0}', Content_Type="application/json"
                )
                if rotated.status != 200:
                    return
                answered[name] = rotated.json["id"]
            elif number % 3 == 2:
                answered[name] += "?"
                if daemon.request("DELETE", f"/v1/keys/{name}").status != 200:
                    return
                answered[name] = None
