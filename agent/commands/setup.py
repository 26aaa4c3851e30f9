"""`tee-agent setup`: from an address to a configuration that was tried."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent import session
from agent.admin import image, plan, setup, volumes
from agent.admin.plan import Change
from agent.admin.server import Shown
from agent.admin.setup import Service
from agent.core.config import Config
from agent.core.errors import UsageError
from agent.deadline import Deadline

HELP = "Write the configuration: the service, its pinned key, the volumes."
SECONDS = 60.0
"""For looking at the service and asking it; not for somebody reading."""

_EXAMPLE = """examples:
  tee-agent setup --url https://tas.example.org:8443 --api-key-file key --policy-id web-1 --volume root=/dev/vda3
  tee-agent setup --url https://tas.example.org:8443 --api-key-file key --pin spki:sha256:0f3d... --yes
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    parser.add_argument("--url", required=True, help="address of the attestation service")
    parser.add_argument(
        "--pin", action="append", default=[], help="key believed there; repeatable (default: shown and asked for)"
    )
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="client API key (default: the one there; ask)"
    )
    parser.add_argument(
        "--policy-id", action="append", default=[], metavar="ID", help="policy of the volumes; twice: current and next"
    )
    parser.add_argument(
        "--volume", action="append", default=[], metavar="NAME=DEVICE", help="LUKS2 volume to open by attestation"
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing; https then needs --pin")
    parser.add_argument("--force", action="store_true", help="replace what is there, after showing the difference")


def run(args: argparse.Namespace) -> int:
    """Returns 0; what fails is raised, and nothing is written then."""
    path = args.config.absolute()
    old = setup.existing(path)
    url, pins = plan.url(args.url), plan.pins(args.pin)
    table = volumes.entries()
    known = {one.name: one for one in old.volumes} if old else {}
    chosen = [volumes.settled(plan.volume(text, args.policy_id, known), table) for text in args.volume]
    service = setup.meet(url, pins, lambda shown: _confirmed(args, shown), Deadline(SECONDS, "setup"))
    config = plan.merged(old, setup.section(service, path.parent), chosen, str(path))
    plan.text(config)  # refused now rather than after a key was asked for
    api_key = _api_key(args, path.parent / plan.API_KEY)
    version = setup.asked(config, service, api_key, Deadline(SECONDS, "setup"))
    found = setup.changes(config, service, api_key)
    _agreed(args, found)
    written = setup.write(found)
    _say(args, config, service, version, [str(one) for one in written])
    return 0


def _confirmed(args: argparse.Namespace, shown: Shown) -> bool:
    """Trust on first use is somebody's decision, never ours."""
    if args.yes or not sys.stdin.isatty():
        raise UsageError(
            f"whether {shown.pin} is the service's key, nobody said",
            hint="compare it with `tas check` on the service's machine, then give it with --pin",
            code="usage.pin",
        )
    sys.stderr.write("\n".join(["", *_server(args.url, shown), ""]))
    sys.stderr.write("`tas init` and `tas check` print the pin on the service's machine. Compare all of it.\n")
    return _yes("Is this the service's key? yes/no: ")


def _server(url: str, shown: Shown) -> list[str]:
    lines = [
        f"{url} shows",
        f"  certificate  {shown.subject}, issued by {shown.issuer}",
        f"  names        {', '.join(shown.names) or 'none'}",
        f"  valid        {shown.not_before:%Y-%m-%d} to {shown.not_after:%Y-%m-%d}",
        f"  pin          {shown.pin}",
    ]
    return [*lines, *(f"  or by CA     {one.pin} ({one.subject})" for one in shown.authorities)]


def _yes(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip() == "yes"


def _api_key(args: argparse.Namespace, there: Path) -> str:
    if args.api_key_file is not None:
        return session.read_api_key(args.api_key_file)
    if there.exists():
        return session.read_api_key(there)
    if args.yes or not sys.stdin.isatty():
        raise UsageError(
            "the service's API key is needed", hint="--api-key-file FILE; `tas init` printed where it is", code="usage"
        )
    return session.parse_api_key(getpass.getpass("API key of the service: "), "the typed key")


def _agreed(args: argparse.Namespace, found: Sequence[Change]) -> None:
    """The difference to what is there is shown before it goes; and asked about where somebody sits there."""
    config = found[-1]
    if config.needed and not config.is_new and not args.json:
        sys.stderr.write(plan.difference(config))
    setup.require_new(found, force=args.force)
    replaces = any(change.needed and not change.is_new for change in found)
    if replaces and not args.yes and sys.stdin.isatty() and not _yes("Replace it? yes/no: "):
        raise UsageError("nothing was written", code="usage.declined")


def _say(args: argparse.Namespace, config: Config, service: Service, version: str, written: list[str]) -> None:
    following, note = _next(config)
    if args.json:
        document: dict[str, Any] = {
            "config": config.source,
            "written": written,
            "service": {"url": service.url, "version": version, "pins": [str(pin) for pin in service.pins]},
            "volumes": [{"name": one.name, "device": one.device} for one in config.volumes],
            "next": following,
            "notes": [note] if note else [],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif not args.quiet:
        lines = [
            *(f"wrote {path}" for path in written or ["nothing: all is as asked already"]),
            f"  service  {service.url}, version {version}; the API key is good",
            *(f"  pin      {pin}" for pin in service.pins),
            *(f"  volume   {one.name}: {one.device}, policy {', '.join(one.policy_ids)}" for one in config.volumes),
            *(f"  not configured: {one.name} ({one.source}) of /etc/crypttab" for one in _left_out(config)),
            *([f"note: {note}"] if note else []),
            *(f"next: {command}" for command in following),
        ]
        sys.stdout.write("\n".join(lines) + "\n")


def _left_out(config: Config) -> list[Any]:
    return list(volumes.left_out(config.volumes, volumes.entries()))


def _next(config: Config) -> tuple[list[str], str]:
    if not config.volumes:
        return ["tee-agent setup --volume NAME=DEVICE --policy-id ID ..., or: tee-agent config check"], ""
    draft = f"tee-agent policy draft --key-id KEY --policy-id {config.volumes[0].policy_ids[0]}"
    binding, note = setup.binding(config)
    steps = [f"{draft}, unless the service has it", *binding]
    return ([*steps, "update-initramfs -u", "tee-agent preflight"] if image.HOOK.exists() else steps), note
