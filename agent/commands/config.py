"""`tee-agent config check | show`: what the configuration says, and whether it fits this machine."""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

from agent import settings
from agent.admin import inspect
from agent.core.configtext import render
from agent.core.health import healthy, screen

HELP = "Check the configuration against this machine, or show it with its defaults."
BAD = 78
"""Exit status when a check found a problem: as for a configuration that can't be read."""

_EXAMPLE = """examples:
  tee-agent config check
  tee-agent config check ./new.toml --json | jq .problems
  tee-agent config show
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="check | show", required=True)
    check = actions.add_parser("check", help="values, files, the live service, volumes, the initramfs's copy")
    show = actions.add_parser("show", help="the effective configuration; defaults are marked")
    for action in (check, show):
        action.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: as --config says")


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 78 when a check found a problem. Raises ConfigError."""
    config = settings.load((args.file or args.config).absolute())
    if args.action == "show":
        text = render(config, defaults=True)
        shown = json.dumps(tomllib.loads(text), indent=2) + "\n" if args.json else text
        sys.stdout.write(shown)
        return 0
    found = tuple(inspect.findings(config))
    good = healthy(found)
    if args.json:
        problems = [asdict(finding) for finding in found if finding.state == "PROBLEM"]
        document = {"good": good, "problems": problems, "findings": [asdict(finding) for finding in found]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif not (args.quiet and good):
        sys.stdout.write(screen(found))
    return 0 if good else BAD
