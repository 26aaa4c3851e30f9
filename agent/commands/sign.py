"""tee-agent sign: a bundle over a file, made by the running agent."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agent import settings
from agent.client import Client
from agent.core.bundle import Payload
from agent.core.challenge import NONCE_MAX, NONCE_MIN
from agent.core.errors import UsageError
from agent.daemon.names import SIGNER, socket_path
from agent.deadline import Deadline

HELP = "Have a file signed by the attested key; prints a bundle."
SIGN_SECONDS = 900.0
STANDARD = "-"
_CHUNK = 1 << 18


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="what to sign; - for standard input")
    parser.add_argument("--context", default="", metavar="TEXT", help="what the signature is for; verify --context")
    parser.add_argument("--audience", default="", metavar="TEXT", help="whom it is for; verify --audience")
    parser.add_argument("--fresh", metavar="NONCE", help="a relying party's nonce (16 to 64 bytes, hex): new evidence")
    parser.add_argument("-o", "--output", metavar="OUT", default=STANDARD, help="default: standard output")
    parser.add_argument("--socket", type=Path, help="default: agent.sock in the configured runtime folder")
    parser.epilog = """\
example:
  tee-agent sign report.pdf --context invoices -o report.bundle
  tee-agent verify report.bundle --payload report.pdf --context invoices --policy policy.json
"""


def run(args: argparse.Namespace) -> int:
    nonce = _nonce(args.fresh) if args.fresh is not None else None
    client = Client(args.socket or socket_path(settings.load(args.config).daemon.runtime_dir, SIGNER))
    deadline = Deadline(SIGN_SECONDS, "signature")
    chunks = _chunks(args.file)
    if nonce is None:
        bundle = client.sign(chunks, context=args.context, audience=args.audience, deadline=deadline)
    else:
        bundle = client.challenge(_challenge(chunks, nonce, args.context, args.audience), deadline)
    _write(bundle, args.output)
    return 0


def _nonce(text: str) -> str:
    try:
        nonce = bytes.fromhex(text)
    except ValueError as error:
        raise UsageError(f"--fresh: not hexadecimal: {error}") from error
    if not NONCE_MIN <= len(nonce) <= NONCE_MAX:
        raise UsageError(f"--fresh: a nonce has {NONCE_MIN} to {NONCE_MAX} bytes, not {len(nonce)}")
    return nonce.hex()


def _challenge(chunks: Iterator[bytes], nonce: str, context: str, audience: str) -> dict[str, Any]:
    payload = Payload.of_chunks(chunks)
    said = {"alg": "sha-512", "digest": payload.digest.hex(), "size": payload.size}
    return {"nonce": nonce, "payload": said, "context": context, "audience": audience}


def _chunks(name: str) -> Iterator[bytes]:
    try:
        with ExitStack() as stack:
            file = sys.stdin.buffer if name == STANDARD else stack.enter_context(Path(name).open("rb"))
            while chunk := file.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}", code="usage.input") from error


def _write(bundle: bytes, output: str) -> None:
    if output == STANDARD:
        sys.stdout.buffer.write(bundle)
        return
    # Whole or not at all: nobody finds half a bundle under the name.
    target = Path(output)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(bundle)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"{output}: {error.strerror}", code="usage.output") from error
