"""`tee-agent preflight`: will this machine come back by itself?"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from agent import settings
from agent.admin.preflight import findings
from agent.core.health import healthy, screen
from agent.core.policy import MAX_BYTES, Policy
from agent.hardening import harden
from agent.verify.files import read_file

HELP = "Will this machine boot unattended? Tries all of it but opening."
WOULD_NOT = 1

_EXAMPLE = """examples:
  tee-agent preflight && reboot
  tee-agent preflight --policy web-1.json
  tee-agent preflight --json | jq '.findings[] | select(.state == "PROBLEM")'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    parser.add_argument(
        "--policy", metavar="FILE", help="the service's policy: would it accept what the next boot will measure?"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0 when nothing stands against an unattended boot, else 1. Raises ConfigError, FormatError (policy)."""
    harden()
    policy = Policy.from_bytes(read_file(args.policy, MAX_BYTES)) if args.policy else None
    found = tuple(findings(settings.load(args.config.absolute()), policy))
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
