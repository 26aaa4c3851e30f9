"""The demo's first half: the path that must work."""

from __future__ import annotations

import json
import secrets
import sys
from contextlib import AbstractContextManager
from typing import Protocol

from sim.demo_world import BIN, StepFailed, World

KEY_ID = "demo-disk"
POLICY_ID = "demo-policy"
VOLUME = "demo"


class Steps(Protocol):
    """What prints the steps."""

    def step(self, title: str) -> AbstractContextManager[list[str]]: ...


def play(stage: Steps, world: World) -> None:
    """From the kernel's interface to a verified bundle."""
    with stage.step("start the simulator below the kernel's interface"):
        start_simulator(world)
    with stage.step("start the attestation service, trusting the simulator's root by name"):
        start_tas(world)
    with stage.step("make a secret at the service, and the policy that guards it"):
        enrol(world)
    with stage.step("format a LUKS2 image with an ordinary passphrase"):
        format_image(world)
    with stage.step("bind it: evidence, TLS, secret, then a keyslot and its MAC") as notes:
        words = ("--key-file", world.passphrase, "--unmeasured-boot")
        notes.append(last_line(world.agent("disk", "bind", VOLUME, *words)))
    with stage.step("unlock it by attestation alone") as notes:
        notes.append(last_line(world.agent("disk", "unlock", VOLUME)))
    with stage.step("start the daemon: signer, fetcher, quoter"):
        world.start("daemon", BIN / "tee-agent", "daemon", "--config", world.config)
    with stage.step("sign a file with curl, through the local socket") as notes:
        notes.append(sign(world))
    with stage.step("verify the bundle as a stranger would, offline") as notes:
        notes.append(verify(world))
    with stage.step("tee-agent status") as notes:
        notes.append(world.agent("status"))


def start_simulator(world: World) -> None:
    """Mount the tree. The reference values are what the owner expects to be launched."""
    options = {"measurement": "--measurement", "mr_td": "--mrtd"}
    launch = [w for name, value in world.reference.items() for w in (options.get(name, f"--{name}"), value)]
    words = ("--tee", world.tee, "--mount", world.mount, "--state", world.folder / "sim")
    where = ("--export", world.endorsements)
    world.start_with_fd("sim", sys.executable, "-m", "sim", "--foreground", *words, *where, *launch)


def start_tas(world: World) -> None:
    """Serve on loopback, and write the agent's configuration from what `tas init` says."""
    said = json.loads(world.tas("init", "--json"))
    listen = f"127.0.0.1:{world.tas_port}"
    words = ("--listen", listen, "--endorsements", world.endorsements, "--trust-root", world.root_pem)
    world.start_with_fd("tas", BIN / "tas", "serve", "--state", world.tas_state, *words)
    world.config.write_text(
        f"""\
[tas]
url = "https://{listen}"
pins = ["{said["pin"]}"]
api_key_file = "{said["api_key_file"]}"

[evidence]
tsm_root = "{world.mount}"
lock_file = "{world.folder}/quote.lock"
endorsements = "{world.endorsements}"

[[volume]]
name = "{VOLUME}"
device = "{world.image}"
policy_ids = ["{POLICY_ID}"]

[audit]
folder = "{world.folder}/audit"

[daemon]
runtime_dir = "{world.runtime}"
allow_groups = ["root"]
signer_user = "65534"
fetcher_user = "65534"
"""
    )


def policy(world: World, *, measurement: str = "") -> dict[str, object]:
    """The policy document for the simulated machine, or for another launch measurement."""
    reference = dict(world.reference)
    if measurement:
        reference["measurement" if world.tee == "snp" else "mr_td"] = measurement
    kind = "SEV" if world.tee == "snp" else "TDX"
    return {
        "metadata": {"policy_type": kind, "policy_id": POLICY_ID, "key_id": KEY_ID, "name": "demo", "version": "1"},
        "validation_rules": {name: {"exact_match": value} for name, value in reference.items()},
    }


def enrol(world: World) -> None:
    world.policy.write_text(json.dumps(policy(world), indent=2))
    world.tas("secret", "create", KEY_ID)
    world.tas("policy", "put", world.policy)


def format_image(world: World) -> None:
    world.passphrase.touch(mode=0o600)
    world.passphrase.write_text(secrets.token_hex(16))
    with world.image.open("wb") as image:
        image.truncate(32 << 20)
    world.run(
        *("cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode", "--pbkdf", "argon2id"),
        *("--pbkdf-memory", "65536", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1"),
        *("--key-file", world.passphrase, world.image),
    )


def sign(world: World) -> str:
    world.payload.write_bytes(secrets.token_bytes(1 << 20))
    words = ("--silent", "--show-error", "--fail-with-body", "--unix-socket", world.socket)
    what = ("--data-binary", f"@{world.payload}", "--output", world.bundle)
    try:
        world.run("curl", *words, *what, "http://agent/v1/sign")
    except StepFailed as failure:
        said = world.bundle.read_text() if world.bundle.exists() else ""
        raise StepFailed(f"{failure}{said}\n{world.log('daemon')}") from failure
    return f"1 MiB of payload, a bundle of {world.bundle.stat().st_size} bytes"


def verify(world: World) -> str:
    words = ("--payload", world.payload, "--policy", world.policy, "--trust-root", world.root_pem)
    said = world.agent("verify", world.bundle, *words).splitlines()
    return f"{sum(' ok ' in line for line in said)} checks made, all ok\n{said[-1]}"


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
