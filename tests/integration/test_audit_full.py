"""A daemon whose audit log lies on a file system that fills up: keys stay as they are, signing goes on, status says so."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.auditlogs import told
from tests.support.daemon import CLI, ROOT, SIGNER, Daemon, open_folder, run, running_daemon
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")


@pytest.fixture(scope="module")
def machine(pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as simulator:
        yield simulator


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 1 MiB that belongs to the signer."""
    place = folder / "audit"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size=1m,uid={SIGNER},gid={SIGNER},mode=0750", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=60)


def fill(place: Path) -> Path:
    """Take every byte that is left."""
    path = place / "fill"
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


def create(daemon: Daemon, name: str) -> Any:
    return daemon.post("/v1/keys", json.dumps({"name": name, "use": "raw"}).encode(), Content_Type="application/json")


def screen(daemon: Daemon) -> list[str]:
    """What `tee-agent status` calls a problem of the log."""
    argv = [*CLI, "status", "--config", str(daemon.config), "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, check=False, timeout=60)
    problems = json.loads(done.stdout)["problems"]
    return [one["text"] for one in problems if one["subject"] == "audit"]


def test_a_full_disk(machine: Simulator) -> None:
    with open_folder() as folder, small_disk(folder) as disk, running_daemon(machine, folder) as daemon:
        made, own = create(daemon, "app"), daemon.status()["key"]["id"]
        assert made.status == 201
        filling = fill(disk)
        for answer in (
            create(daemon, "more"),
            daemon.post("/v1/keys/app/rotate"),
            daemon.request("DELETE", "/v1/keys/app"),
        ):
            assert (answer.status, answer.json["code"]) == (503, "server.audit")
            assert int(answer.headers["Retry-After"]) > 0
        assert [key["name"] for key in daemon.request("GET", "/v1/keys").json["keys"][1:]] == ["app"]
        for number in range(3):
            assert daemon.post("/v1/sign", b"payload %d" % number).status == 200
            assert daemon.post("/v1/keys/app/sign", b"payload %d" % number).status == 200
        assert daemon.status()["audit"]["trouble"]["code"] == "server.audit"
        (problem,) = screen(daemon)
        assert "can't be written" in problem

        filling.unlink()
        assert daemon.post("/v1/keys/app/rotate").status == 200
        assert daemon.status()["audit"]["trouble"] is None
        assert screen(daemon) == []
        assert daemon.terminate() == 0
        records = told(disk)
        kinds = [kind for kind, _ in records]
        assert kinds.count("key.created") == kinds.count("key.rotated") == 1
        assert "key.destroyed" not in kinds
        counts = Counter[str]()
        for kind, fields in records:
            if kind == "key.signed":
                counts[fields["key_id"]] += fields["count"]
        assert counts[made.json["id"]] == 3
        assert counts[own] == 3 + 2, "`tee-agent status` asks for a bundle, to see its evidence"
