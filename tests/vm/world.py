"""What stays the same from boot to boot: keys, service state, configuration, and the image made with them.

A world is built once for its inputs and kept under build/vm. The volume is bound on the host, by the command an admin
would use, against the simulator with the guest's own keys and measurements.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.demo_world import free_port
from sim.export import export
from tests.support.simulator import machine, running_simulator
from tests.support.tas import RunningTas, running_tas, snp_policy, tdx_policy
from tests.vm import image, simdisk, tree
from tests.vm.command import BUILD, REPOSITORY, VM, HarnessError, locked, run

VOLUME = "root"
POLICY_ID, KEY_ID = "vm-root-policy", "vm-root"
MEASUREMENT = "51" * 48
REGISTERS = {"mr_td": "d0" * 48, "rtmr0": "d1" * 48, "rtmr1": "d2" * 48, "rtmr2": "d3" * 48}
SIMULATED = {
    "snp": ("--measurement", MEASUREMENT),
    "tdx": tuple(w for name, value in REGISTERS.items() for w in (f"--{name.replace('_', '')}", value)),
}
DAYS_KEPT = 14
"""Collateral in the image is valid for thirty days."""
DEBS = Path(os.environ.get("TEE_AGENT_DEBS", BUILD))
"""Where our packages are. The variable is for trying packages that were built elsewhere."""
_PACKAGES = {"tee-agent", "tee-agent-initramfs"}
_PACKAGED = ("agent", "snp", "tdx", "initramfs", "systemd", "packaging")
_SOURCES = ("agent", "sim", "snp", "tdx", "tas", "tests/vm/guest")
_RECIPE = ("image.py", "simdisk.py", "tree.py", "world.py")


@dataclass(frozen=True, slots=True)
class World:
    """Files of a built world, by name in its folder."""

    folder: Path
    flavour: str

    @property
    def port(self) -> int:
        """Of the service on the host's loopback: it stands in the configuration inside the initramfs."""
        port: int = json.loads((self.folder / "world.json").read_text())["port"]
        return port

    def file(self, name: str) -> Path:
        return self.folder / name

    def config(self, changes: Mapping[str, str] | None = None) -> str:
        """The guest's configuration, with lines of it replaced."""
        return configuration(f"https://10.0.2.2:{self.port}", self._pin(), changes=changes)

    def _pin(self) -> str:
        pin: str = json.loads((self.folder / "world.json").read_text())["pin"]
        return pin

    @contextmanager
    def service(self, tee: str, folder: Path, *, wrong_measurement: bool = False) -> Iterator[RunningTas]:
        """The attestation service at the world's port, holding the policy for ``tee``; its state is a copy."""
        state = folder / "tas"
        shutil.copytree(self.folder / "tas", state)
        endorsements = folder / "endorsements"
        _export(self.folder / "state", endorsements)
        roots = [endorsements / name / "root.pem" for name in SIMULATED]
        service = RunningTas(state, trust_roots=roots, endorsements=endorsements / tee, arguments=())
        service.put_policy(policy(tee, wrong_measurement=wrong_measurement), replace=True)
        try:
            service.start(self.port)
            yield service
        finally:
            service.close()


def policy(tee: str, *, wrong_measurement: bool = False) -> dict[str, Any]:
    """The owner's policy for the simulated machine, or for one that was launched otherwise."""
    wrong = "5a" * 48
    if tee == "snp":
        return snp_policy(POLICY_ID, KEY_ID, wrong if wrong_measurement else MEASUREMENT)
    return tdx_policy(POLICY_ID, KEY_ID, {**REGISTERS, **({"rtmr2": wrong} if wrong_measurement else {})})


@functools.cache
def world(flavour: str) -> World:
    """The world of this flavour (agent, plain, purged), built if there is none for the present inputs."""
    packages = debs() if flavour != "plain" else []
    sources = [REPOSITORY / name for name in _SOURCES] + [Path(__file__).with_name(name) for name in _RECIPE]
    base = tree.base()
    key = tree.digest([*packages, *sources])
    folder = VM / f"world-{flavour}-{base.name.removeprefix('base-')}-{key}"
    with locked(f"world-{flavour}"):
        if not _usable(folder):
            for old in sorted(VM.glob(f"world-{flavour}-*/"), key=lambda path: path.stat().st_mtime)[:-1]:
                shutil.rmtree(old)  # the newest stays, for somebody may be booting it
            fresh = VM / f"unfinished-{flavour}"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            _build(flavour, base, packages, fresh)
            fresh.rename(folder)
    return World(folder, flavour)


def debs() -> list[Path]:
    """Our packages, as `make deb` left them under build/, of the sources as they are. Raises HarnessError."""
    found = {path.name.split("_")[0]: path for path in sorted(DEBS.glob("*.deb"))}
    if not found.keys() >= _PACKAGES:
        raise HarnessError(f"{DEBS} has no {', '.join(sorted(_PACKAGES - found.keys()))}: run make deb first")
    files = (path for name in _PACKAGED for path in (REPOSITORY / name).rglob("*") if "__pycache__" not in path.parts)
    changed = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_mtime)
    if DEBS == BUILD and changed.stat().st_mtime > min(path.stat().st_mtime for path in found.values()):
        raise HarnessError(
            f"{changed.relative_to(REPOSITORY)} is newer than the packages in build/: run make deb first"
        )
    return [found[name] for name in sorted(_PACKAGES)]


def configuration(
    url: str,
    pin: str,
    *,
    device: str = f"UUID={image.LUKS_UUID}",
    changes: Mapping[str, str] | None = None,
    **evidence: Path,
) -> str:
    """The agent's configuration. ``changes`` replaces whole lines; ``evidence`` are keys of its table."""
    where = "".join(f'{name} = "{path}"\n' for name, path in evidence.items())
    text = f"""\
[tas]
url = "{url}"
pins = ["{pin}"]
api_key_file = "/etc/tee-agent/tas-api-key"

[evidence]
{where}
[[volume]]
name = "{VOLUME}"
device = "{device}"
policy_ids = ["{POLICY_ID}"]
fallback = "prompt"

[boot]
deadline_seconds = 90

[daemon]
allow_groups = ["signers"]
"""
    for old, new in (changes or {}).items():
        if old not in text:
            raise HarnessError(f"the configuration has no {old!r} to replace")
        text = text.replace(old, new)
    return text


def _usable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    made = json.loads((folder / "world.json").read_text())["made"]
    return bool(time.time() - made < DAYS_KEPT * 86_400)


def _export(state: Path, folder: Path) -> None:
    for tee in SIMULATED:
        export(machine(tee, state), folder / tee)


def _build(flavour: str, base: Path, packages: list[Path], folder: Path) -> None:
    scratch = folder / "scratch"
    scratch.mkdir()
    _export(folder / "state", scratch / "endorsements")
    port = free_port()
    with running_simulator("snp", scratch, folder / "state", *SIMULATED["snp"]) as simulator:
        endorsements = scratch / "endorsements"
        service = RunningTas(folder / "tas", trust_roots=[simulator.root_pem], endorsements=endorsements, arguments=())
        pin = json.loads(service.run("init", "--json"))["pin"]
        facts = {"port": port, "pin": pin, "made": int(time.time())}
        (folder / "world.json").write_text(json.dumps(facts))
        files = {
            "etc/tee-agent/tee-agent.toml": World(folder, flavour).config().encode(),
            "etc/tee-agent/tas-api-key": service.api_key_file.read_bytes(),
        }
        image.build(base, packages, files, endorsements, folder, purge=flavour == "purged")
        service.create_secret(KEY_ID)
        service.put_policy(policy("snp"))
        if flavour == "agent":
            with running_tas(folder / "tas", trust_roots=[simulator.root_pem], endorsements=endorsements) as serving:
                _bind(folder, scratch, serving, simulator.mount)
    simdisk.make(base, folder / "state", folder / "simulator.img", scratch)
    shutil.rmtree(scratch)


def _bind(folder: Path, scratch: Path, service: RunningTas, mount: Path) -> None:
    config = scratch / "tee-agent.toml"
    text = configuration(
        service.url, service.pin, device=str(folder / "disk.img"), tsm_root=mount, lock_file=scratch / "quote.lock"
    )
    config.write_text(text.replace("/etc/tee-agent/tas-api-key", str(service.api_key_file)))
    key = scratch / "passphrase"
    key.write_text(image.PASSPHRASE)
    program = REPOSITORY / ".venv/bin/tee-agent"
    run(program, "disk", "bind", VOLUME, "--key-file", key, "--unmeasured-boot", "--config", config)
