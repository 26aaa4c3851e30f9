"""The demo's second half: what an attacker would try. Each must be refused, for the right reason."""

from __future__ import annotations

import json
import shutil

from sim import luks_attack
from sim.demo_chain import VOLUME, Steps, policy
from sim.demo_world import StepFailed, World


def play(stage: Steps, world: World) -> None:
    """Five refusals."""
    with stage.step("one bit of the bundle flipped") as notes:
        notes.append(tampered_bundle(world))
    with stage.step("a bundle held against another measurement") as notes:
        notes.append(other_workload(world))
    with stage.step("the service holding a policy for another measurement") as notes:
        notes.append(wrong_measurement(world))
    with stage.step("a host-made header with no cipher at all") as notes:
        notes.append(null_cipher(world))
    with stage.step("a local user without permission asking for a signature") as notes:
        notes.append(unpermitted_user(world))


def must_say(text: str, code: str) -> str:
    """The line with the reason, if the refusal carries this stable code. Raises StepFailed."""
    if f"[{code}" not in text:
        raise StepFailed(f"refused, but not with {code}:\n{text}")
    reasons = [line for line in text.splitlines() if line.startswith("tee-agent: ")]
    return f"refused: {reasons[-1].removeprefix('tee-agent: ')}"


def tampered_bundle(world: World) -> str:
    data = bytearray(world.bundle.read_bytes())
    data[len(data) // 2] ^= 1
    tampered = world.folder / "tampered.bundle"
    tampered.write_bytes(data)
    words = ("--payload", world.payload, "--policy", world.policy, "--trust-root", world.root_pem)
    return must_say(world.agent("verify", tampered, *words, status=65), "")


def other_workload(world: World) -> str:
    other = world.folder / "other-policy.json"
    other.write_text(json.dumps(policy(world, measurement="5a" * 48)))
    words = ("--payload", world.payload, "--policy", other, "--trust-root", world.root_pem)
    return must_say(world.agent("verify", world.bundle, *words, status=65), "verify.policy")


def wrong_measurement(world: World) -> str:
    world.policy.write_text(json.dumps(policy(world, measurement="5a" * 48)))
    world.tas("policy", "put", world.policy, "--replace")
    return must_say(world.agent("disk", "unlock", VOLUME, status=77), "denied")


def null_cipher(world: World) -> str:
    world.policy.write_text(json.dumps(policy(world)))
    world.tas("policy", "put", world.policy, "--replace")
    kept = world.folder / "kept.img"
    shutil.copyfile(world.image, kept)
    luks_attack.null_cipher(world.image)
    refusal = must_say(world.agent("disk", "unlock", VOLUME, status=65), "disk.header")
    shutil.copyfile(kept, world.image)
    world.run("cryptsetup", "open", "--test-passphrase", "--key-file", world.passphrase, world.image)
    return f"{refusal}\nthe image with its own header still opens with its passphrase"


def unpermitted_user(world: World) -> str:
    drop = ("setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups")
    words = ("--silent", "--unix-socket", world.socket, "--write-out", " %{http_code}", "--data-binary", "x")
    said = world.run(*drop, "curl", *words, "http://agent/v1/sign")
    if not said.endswith(" 403"):
        raise StepFailed(f"not refused with 403: {said}")
    return "refused: 403"
