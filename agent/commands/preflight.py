"""`tee-agent preflight`: will this machine come back by itself?"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from agent import settings
from agent.admin.preflight import findings
from agent.core.health import healthy, screen
from agent.hardening import harden

HELP = "Will this machine boot unattended? Tries all of it but opening."
WOULD_NOT = 1

_EXAMPLE = """examples:
  tee-agent preflight && reboot
  tee-agent preflight --json | jq '.findings[] | select(.state == "PROBLEM")'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments: none beside the common ones."""
    parser.epilog = _EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Returns 0 when nothing stands against an unattended boot, else 1. Raises ConfigError."""
    harden()
    found = tuple(findings(settings.load(args.config.absolute())))
    good = healthy(found)
    if args.json:
        document = {"comes_back": good, "findings": [asdict(finding) for finding in found]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif not (args.quiet and good):
        verdict = (
            "this machine would boot unattended; next: reboot, then tee-agent status"
            if good
            else "this machine would NOT boot unattended"
        )
        sys.stdout.write(screen(found) + verdict + "\n")
    return 0 if good else WOULD_NOT
