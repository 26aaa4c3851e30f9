"""tee-agent daemon: the running agent, all of it or one role."""

from __future__ import annotations

import argparse
import importlib

from agent import settings
from agent.daemon.names import ROLES

HELP = "Run the agent: signer, fetcher and quoter."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", choices=ROLES, help="this role only, in this process (for a unit of its own)")
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    parser.epilog = """\
example:
  tee-agent daemon --config /etc/tee-agent/tee-agent.toml
  curl --unix-socket /run/tee-agent/agent.sock http://agent/v1/status
"""


def run(args: argparse.Namespace) -> int:
    config = settings.load(args.config)
    # Imported by name: no role carries the others' code, the supervisor none of it.
    if args.role is None:
        status: int = importlib.import_module("agent.daemon.supervisor").run(config, args.config.absolute())
    else:
        status = importlib.import_module(f"agent.daemon.{args.role}").start(config, supervised=args.supervised)
    return status
