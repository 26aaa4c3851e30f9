"""tee-agent seal: data that only this TEE, and the same caller's namespace, can open again."""

from __future__ import annotations

import argparse

from agent.commandio import client_of, output_option, socket_option, write
from agent.deadline import Deadline
from agent.sealing import MAX_PLAINTEXT
from agent.verify.files import read_file

HELP = "Seal a file to this TEE: tee-agent unseal opens it again."
SECONDS = 120.0
_EXAMPLE = """\
example:
  tee-agent seal token --context backup -o token.sealed
  tee-agent unseal token.sealed --context backup -o /run/backup/token
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    arguments(parser, "what to seal, at most 1 MiB")


def arguments(parser: argparse.ArgumentParser, file: str) -> None:
    """Those of both ways; ``file`` says what FILE is."""
    parser.add_argument("file", metavar="FILE", help=f"{file}; - for standard input")
    parser.add_argument("--context", default="", metavar="TEXT", help="what it is for; unseal needs the same")
    output_option(parser)
    socket_option(parser)
    parser.epilog = _EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Have it sealed."""
    data = read_file(args.file, MAX_PLAINTEXT)
    write(client_of(args).seal(data, args.context, Deadline(SECONDS, "sealing")), args.output)
    return 0
