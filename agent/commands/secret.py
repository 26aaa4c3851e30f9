"""tee-agent secret: what the attestation service releases to this machine, and the access policy to a caller."""

from __future__ import annotations

import argparse
import json
import sys

from agent.commandio import PRIVATE, STANDARD, client_of, output_option, socket_option, write
from agent.core.canonical import printable
from agent.core.errors import UsageError
from agent.deadline import Deadline

HELP = "Get a secret from the attestation service, where the policies permit."
SECONDS = 180.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="of [secrets.NAME] in the configuration")
    parser.add_argument("--list", action="store_true", help="the names that this caller may ask for")
    output_option(parser)
    socket_option(parser)
    parser.epilog = """\
example:
  tee-agent secret --list
  tee-agent secret database -o /run/app/database.key
"""


def run(args: argparse.Namespace) -> int:
    """The secret's bytes, or the names."""
    if (args.name is None) != args.list:
        raise UsageError("give the secret's name, or --list")
    if args.list and args.output != STANDARD:
        raise UsageError("--output is for a secret: the list goes to standard output")
    client, deadline = client_of(args), Deadline(SECONDS, "secret")
    if not args.list:
        write(client.secret(args.name, deadline), args.output, PRIVATE)
        return 0
    found = client.secrets(deadline)
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    elif not args.quiet:
        names = [one.get("name") for one in found.get("secrets", []) if isinstance(one, dict)]
        sys.stdout.writelines(f"{printable(str(name))}\n" for name in names)
    return 0
