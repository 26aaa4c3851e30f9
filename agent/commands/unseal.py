"""tee-agent unseal: opens what tee-agent seal made, in the same TEE for the same caller's namespace."""

from __future__ import annotations

import argparse

from agent.commandio import PRIVATE, client_of, output_option, socket_option, write
from agent.commands.seal import EXAMPLE, SECONDS, context_option
from agent.deadline import Deadline
from agent.sealing import MAX_BLOB
from agent.verify.files import read_file

HELP = "Open what tee-agent seal made."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("file", metavar="FILE", help="what seal made; - for standard input")
    context_option(parser)
    output_option(parser)
    socket_option(parser)
    parser.epilog = EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Have it opened; a file that is written is the user's own."""
    blob = read_file(args.file, MAX_BLOB)
    opened = client_of(args).unseal(blob, args.context, Deadline(SECONDS, "unsealing"))
    write(opened, args.output, PRIVATE)
    return 0
