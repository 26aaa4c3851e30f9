"""tee-agent unseal: opens what tee-agent seal made, in the same TEE for the same caller's namespace."""

from __future__ import annotations

import argparse

from agent.commandio import PRIVATE, client_of, write
from agent.commands.seal import SECONDS, arguments
from agent.deadline import Deadline
from agent.sealing import MAX_BLOB
from agent.verify.files import read_file

HELP = "Open what tee-agent seal made."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    arguments(parser, "what seal made")


def run(args: argparse.Namespace) -> int:
    """Have it opened; a file that is written is the user's own."""
    blob = read_file(args.file, MAX_BLOB)
    opened = client_of(args).unseal(blob, args.context, Deadline(SECONDS, "unsealing"))
    write(opened, args.output, PRIVATE)
    return 0
