"""A daemon that has a real attestation service: a root for sealed data, secrets for applications, and a volume's.

::

    with running_world("snp", folder, pki_state) as world:
        blob = world.daemon.post("/v1/seal", b"data").body
        world.service.secret("db")  # what POST /v1/secrets/db must answer
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core import binding
from agent.core.config import EvidenceConfig
from agent.core.model import Tee
from agent.deadline import Deadline
from agent.probe import find_source
from snp import abi as snp_abi
from tdx import abi as tdx_abi
from tests.support.access import text
from tests.support.daemon import Daemon, open_folder, running_daemon
from tests.support.simulator import Simulator, running_simulator
from tests.support.tas import RunningTas, running_tas, snp_policy, tdx_policy

POLICIES = {"sealing-1": "sealing", "db-1": "db", "api-1": "api", "disk-1": "disk"}
"""Policy ids, with the secret that each releases."""
TABLES = """
[sealing]
root = "tas"
policy_id = "sealing-1"
[secrets.db]
policy_id = "db-1"
[secrets.api]
policy_id = "api-1"
[secrets.gone]
policy_id = "no-such-policy"
[[volume]]
name = "root"
device = "/dev/none"
policy_ids = ["disk-1"]
"""


@dataclass(frozen=True)
class World:
    """All of it, running."""

    daemon: Daemon
    service: RunningTas
    simulator: Simulator

    def audit(self) -> list[dict[str, Any]]:
        """The audit log's records; of the last line the end may still be missing."""
        lines = (self.daemon.folder / "audit" / "audit.jsonl").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def asked(self) -> list[dict[str, Any]]:
        """What the service answered to requests for secrets."""
        return [line for line in self.service.log() if line.get("path") == "/kb/v0/get_secret"]


def workload(simulator: Simulator, folder: Path) -> dict[str, Any]:
    """The measurements of the simulated machine, as a policy names them."""
    config = EvidenceConfig(tsm_root=simulator.mount, lock_file=folder / "draft.lock")
    _, source = find_source(config)
    blob = source.quote(binding.collect(binding.Scope("", ""), bytes(16)), deadline=Deadline(60, "evidence")).blob
    if simulator.tee is Tee.SNP:
        return {"measurement": snp_abi.parse(blob).fields()["measurement"]}
    fields = tdx_abi.parse(blob).fields()
    return {name: fields[name] for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}


def tas_table(url: str, api_key_file: Path, pin: str = "", **more: Any) -> str:
    """The [tas] section for a service."""
    table = {"url": url, "api_key_file": str(api_key_file), **({"pins": [pin]} if pin else {}), **more}
    return "[tas]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in table.items())


def write_rules(folder: Path, *rules: Mapping[str, Any]) -> None:
    """The access policy beside the configuration."""
    place = folder / "policy.d"
    place.mkdir(mode=0o755, exist_ok=True)
    (place / "10.toml").write_text(text(*rules))
    (place / "10.toml").chmod(0o644)


@contextmanager
def running_world(
    tee: str,
    pki_state: Path,
    rules: Sequence[Mapping[str, Any]] = (),
    tables: str = TABLES,
    within: Sequence[str] = (),
) -> Iterator[World]:
    """Secrets made, policies put, daemon ready. ``tables`` are the configuration's beside [tas]; ``within`` as there."""
    with (
        open_folder() as folder,
        running_simulator(tee, folder, pki_state) as simulator,
        running_tas(folder / "tas", trust_roots=[simulator.root_pem], endorsements=simulator.export) as service,
    ):
        registers = workload(simulator, folder)
        for policy_id, key_id in POLICIES.items():
            service.create_secret(key_id)
            put_policy(service, policy_id, key_id, registers)
        if rules:
            write_rules(folder, *rules)
        more = tas_table(service.url, service.api_key_file, service.pin, deadline_seconds=10) + tables
        with running_daemon(simulator, folder, more, within=within) as daemon:
            yield World(daemon, service, simulator)


def put_policy(service: RunningTas, policy_id: str, key_id: str, registers: dict[str, Any]) -> None:
    if "measurement" in registers:
        service.put_policy(snp_policy(policy_id, key_id, registers["measurement"]), replace=True)
    else:
        service.put_policy(tdx_policy(policy_id, key_id, registers), replace=True)
