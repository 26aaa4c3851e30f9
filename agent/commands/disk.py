"""`tee-agent disk bind | list | test | unbind | unlock`: LUKS2 volumes and the secrets that open them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent import session, settings
from agent.admin import measured
from agent.core import ports
from agent.core.config import Config, VolumeConfig
from agent.core.errors import UsageError
from agent.core.model import Secret
from agent.deadline import Deadline
from agent.disk import passphrase
from agent.disk.bind import Bound, bind
from agent.disk.listing import Listed, list_volumes
from agent.disk.measured import Measured
from agent.disk.unbind import Unbound, unbind
from agent.disk.unlock import Opened, test, unlock
from agent.disk.volume import Ask, Fetch
from agent.hardening import harden

HELP = "Bind, test, list, unlock and unbind LUKS2 volumes."

OPERATION_SECONDS = 600.0
"""For one operation, somebody typing a passphrase included. The service's own deadline is in the configuration."""
_EXAMPLE = """examples:
  tee-agent disk bind data --key-file /root/data.key
  tee-agent disk test data
  tee-agent disk list --json
"""
_NAME = "volume, by its name in the configuration ([[volume]])"
Said = tuple[Mapping[str, Any], list[str]]
"""A result, for programs and for people."""
_KEY_FILE = "passphrase of another keyslot, byte by byte; - for standard input (default: ask)"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="bind | list | test | unbind | unlock", required=True)
    actions.add_parser("list", help="every configured volume and its binding; needs neither network nor secret")
    binding = actions.add_parser("bind", help="add a keyslot for the secret that attestation releases; repeatable")
    binding.add_argument(
        "--unmeasured-boot", action="store_true", help="bind although this boot is not known to be measured"
    )
    testing = actions.add_parser("test", help="fetch the secret, verify the header, try the keyslot; change nothing")
    unbinding = actions.add_parser(
        "unbind", help="wipe our keyslot and token, once another passphrase is shown to work"
    )
    unlocking = actions.add_parser("unlock", help="map the volume as /dev/mapper/NAME")
    for action in (binding, testing, unbinding, unlocking):
        action.add_argument("name", metavar="NAME", help=_NAME)
    for action in (binding, unbinding):
        action.add_argument("--key-file", type=Path, metavar="FILE", help=_KEY_FILE)


def run(args: argparse.Namespace) -> int:
    """Returns 0; what fails is raised."""
    harden()
    config = settings.load(args.config)
    if args.action == "list":
        return _list(config, args)
    volume = _volume(config, args.name)
    document, lines = _act(config, volume, args)
    _say(args, {"volume": volume.name, "device": volume.device, **document}, lines)
    return 0


def _act(config: Config, volume: VolumeConfig, args: argparse.Namespace) -> Said:
    fetch, deadline = _fetch(config), Deadline(OPERATION_SECONDS, f"disk {args.action}")
    if args.action == "bind":
        ask = _ask(args, volume)
        boot = measured.looked(config).measured
        options = {"boot": boot, "unmeasured_boot": args.unmeasured_boot}
        return _bound(volume, bind(volume, ask=ask, fetch=fetch, deadline=deadline, **options), boot)
    if args.action == "unbind":
        return _unbound(volume, unbind(volume, ask=_ask(args, volume), fetch=fetch, deadline=deadline))
    opening = test if args.action == "test" else unlock
    return _opened(volume, opening(volume, fetch=fetch, deadline=deadline))


def _bound(volume: VolumeConfig, done: Bound, boot: Measured) -> Said:
    lines = [
        f"{volume.name}: {'bound' if done.changed else 'is bound already, and verified'}",
        f"  volume {done.uuid}, keyslot {done.slot}, token {done.token}, policy {done.key_id}",
        f"  initramfs measured: {boot.state}: {boot.reason}",
        f"  next: tee-agent disk test {volume.name}",
    ]
    return {**asdict(done), "initramfs_measured": boot.state}, lines


def _opened(volume: VolumeConfig, done: Opened) -> Said:
    lines = [
        f"{volume.name}: {f'mapped as {done.mapped}' if done.mapped else done.note}",
        f"  volume {done.uuid}, header verified, keyslot {done.slot}, policy {done.key_id}",
    ]
    return asdict(done), lines


def _unbound(volume: VolumeConfig, done: Unbound) -> Said:
    slot = "no keyslot of ours was left" if done.slot is None else f"keyslot {done.slot} wiped"
    return asdict(done), [f"{volume.name}: unbound: {slot}, token {done.token} removed"]


def _list(config: Config, args: argparse.Namespace) -> int:
    listed = list_volumes(config.volumes)
    lines = [line for one in listed for line in _lines(one)]
    _say(args, {"volumes": [asdict(one) for one in listed]}, lines or ["no volume is configured"])
    return 0


def _lines(one: Listed) -> list[str]:
    head = f"{one.name}: {one.state} ({one.device})"
    if one.problem:
        return [head, f"  {one.problem}"]
    foreign = ", ".join(str(slot) for slot in one.foreign_slots) or "none"
    ours = f"keyslot {one.slot}, policy {one.key_id}; " if one.key_id else ""
    lines = [head, f"  volume {one.uuid}; {ours}other keyslots: {foreign}"]
    return lines if one.intact else [*lines, "  one header copy needs mending: an edit was cut off (cryptsetup repair)"]


def _say(args: argparse.Namespace, document: Mapping[str, Any], lines: list[str]) -> None:
    if args.json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif not args.quiet:
        sys.stdout.write("\n".join(lines) + "\n")


def _volume(config: Config, name: str) -> VolumeConfig:
    for volume in config.volumes:
        if volume.name == name:
            return volume
    known = ", ".join(volume.name for volume in config.volumes) or "none"
    raise UsageError(f"{config.source} has no volume {name!r}", hint=f"configured: {known}", code="usage.volume")


def _fetch(config: Config) -> Fetch:
    """The attestation service, opened only when a secret is really needed."""

    def fetch(policy_id: str, deadline: ports.Deadline) -> Secret:
        client = session.open_tas(config)
        seconds = config.tas.deadline_seconds if config.tas else OPERATION_SECONDS
        return client.fetch_secret(policy_id, Deadline(min(seconds, deadline.remaining()), "secret from the TAS"))

    return fetch


def _ask(args: argparse.Namespace, volume: VolumeConfig) -> Ask:
    if args.key_file is not None:
        return lambda: passphrase.from_file(args.key_file)
    return lambda: passphrase.from_terminal(f"Passphrase that opens {volume.name} ({volume.device}): ")
