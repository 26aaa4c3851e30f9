"""`tee-agent policy draft`: the policy under which an attestation service gives this machine its secret."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from agent import settings
from agent.admin import files
from agent.admin.evidence import live
from agent.core.config import Config
from agent.core.draft import UP_TO_DATE, draft, remarks
from agent.core.tcbrule import TCB_ORDER
from agent.deadline import Deadline

HELP = "Draft the policy that releases a secret to this machine."
POLICY_MODE = 0o644

_EXAMPLE = """examples:
  tee-agent policy draft --key-id root-disk --policy-id web-1 -o web-1.json
  tas policy put web-1.json          # on the service's machine
"""
_ACCEPTABLE = TCB_ORDER[2:]
"""The other two no service accepts."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="draft", required=True)
    drafting = actions.add_parser("draft", help="a policy that accepts what is running here now")
    drafting.add_argument("--key-id", required=True, metavar="ID", help="the secret, as in: tas secret create ID")
    drafting.add_argument("--policy-id", metavar="ID", help="as in policy_ids of a volume (default: the key id)")
    drafting.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")
    drafting.add_argument(
        "--accept-tcb",
        choices=_ACCEPTABLE,
        default=UP_TO_DATE,
        metavar="STATUS",
        help=f"TDX: the least status of each part of the TCB, one of {', '.join(_ACCEPTABLE)} (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0; what fails is raised, and nothing is written then."""
    config = _config(args.config)
    tee, fields = live(config, Deadline(config.evidence.quote_seconds, "evidence"))
    policy = draft(tee, fields, policy_id=args.policy_id or args.key_id, key_id=args.key_id, tcb=args.accept_tcb)
    notes = remarks(tee, fields)
    text = json.dumps(policy.document, indent=2) + "\n"
    if args.output is None:
        sys.stdout.write(text)
    else:
        files.replace(args.output.absolute(), text.encode(), POLICY_MODE)
    _tell(args, policy.policy_id, notes)
    return 0


def _config(path: Path) -> Config:
    """A policy can be drafted before there is a configuration: evidence has its usual place."""
    if path == settings.DEFAULT_PATH and not path.exists():
        return Config(str(path))
    return settings.load(path)


def _tell(args: argparse.Namespace, policy_id: str, notes: tuple[str, ...]) -> None:
    if args.json and args.output is not None:
        document = {"policy_id": policy_id, "key_id": args.key_id, "file": str(args.output), "notes": notes}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif not args.quiet and not args.json:
        name = args.output.name if args.output else "FILE"
        lines = [*notes, f"next, on the service's machine: tas policy put {name}"]
        sys.stderr.write("".join(f"{line}\n" for line in lines))
