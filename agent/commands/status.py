"""`tee-agent status`: one screen, true as far as it can be seen from here."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime

from agent.core.health import healthy, judge, screen
from agent.health import gather
from agent.settings import load

HELP = "Show on one screen whether this machine can attest, unlock and sign."
NOT_HEALTHY = 1

_EXAMPLE = """examples:
  tee-agent status
  tee-agent status --json | jq .problems
  tee-agent status --quiet || echo "look at this machine"
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments: none beside the common ones."""
    parser.epilog = _EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Returns 0 when healthy, else 1. Raises ConfigError."""
    config = load(args.config)
    at = datetime.now(UTC)
    facts = gather(config, at)
    findings = judge(facts, at)
    good = healthy(findings)
    if args.json:
        problems = [asdict(finding) for finding in findings if finding.state == "PROBLEM"]
        sys.stdout.write(json.dumps({"healthy": good, "problems": problems, **facts}, indent=2) + "\n")
    elif not (args.quiet and good):
        sys.stdout.write(screen(findings))
    return 0 if good else NOT_HEALTHY
