"""tee-agent challenge: evidence made after a relying party's nonce came, as a bundle that verifies offline."""

from __future__ import annotations

import argparse
from typing import Any

from agent.commandio import chunks, client_of, digest_document, nonce_hex, output_option, socket_option, write
from agent.core.canonical import parse
from agent.core.challenge import MAX_OBJECT
from agent.deadline import Deadline
from agent.verify.files import read_file

HELP = "Answer a relying party's nonce with evidence made now."
SECONDS = 120.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("nonce", metavar="NONCE", help="the relying party's: 16 to 64 bytes, hex")
    parser.add_argument("--payload", metavar="FILE", help="signed along; - for standard input")
    parser.add_argument("--context", default="", metavar="TEXT", help="what the answer is for; verify --context")
    parser.add_argument("--audience", default="", metavar="TEXT", help="whom it is for; verify --audience")
    parser.add_argument("--claims", metavar="FILE", help="a JSON object that stands in the bundle, checked by nobody")
    output_option(parser)
    socket_option(parser)
    parser.epilog = """\
example:
  tee-agent challenge 6b1f0d52a7c3e8946b1f0d52a7c3e894 --audience ci.example -o answer.bundle
  tee-agent verify answer.bundle --nonce 6b1f0d52a7c3e8946b1f0d52a7c3e894 --audience ci.example --policy policy.json
"""


def run(args: argparse.Namespace) -> int:
    """Ask the agent; it takes one quote, or two."""
    document: dict[str, Any] = {"nonce": nonce_hex(args.nonce, "NONCE")}
    document |= {"context": args.context, "audience": args.audience}
    if args.claims is not None:
        document["claims"] = parse(read_file(args.claims, MAX_OBJECT), "claims", MAX_OBJECT)
    if args.payload is not None:
        document["payload"] = digest_document(chunks(args.payload))
    client = client_of(args)
    write(client.challenge(document, Deadline(SECONDS, "challenge")), args.output)
    return 0
