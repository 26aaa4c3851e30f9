"""What commands that ask the running agent have in common: its socket, what they take, where what they got goes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from agent import settings
from agent.admin import files
from agent.client import Client
from agent.core.bundle import Payload
from agent.core.canonical import shown
from agent.core.challenge import NONCE_MAX, NONCE_MIN
from agent.core.errors import UsageError
from agent.daemon.names import SIGNER, socket_path
from agent.verify.files import PATH_BYTES

STANDARD = "-"
"""As the name of a file: standard input, or output."""
CHUNK = 1 << 18
PRIVATE = 0o600
"""Mode of files that hold what was secret."""


def socket_option(parser: argparse.ArgumentParser) -> None:
    """``--socket``, for ``client_of``."""
    parser.add_argument("--socket", type=Path, help="default: agent.sock in the configured runtime folder")


def output_option(parser: argparse.ArgumentParser) -> None:
    """``--output``, for ``write``."""
    parser.add_argument("-o", "--output", metavar="OUT", default=STANDARD, help="default: standard output")


def client_of(args: argparse.Namespace) -> Client:
    """A client of the socket that was named, or of the configured one. Raises ConfigError."""
    return Client(args.socket or socket_path(settings.load(args.config).daemon.runtime_dir, SIGNER))


def chunks(name: str) -> Iterator[bytes]:
    """A file's content piece by piece. Raises UsageError (``usage.input``)."""
    try:
        with ExitStack() as stack:
            file = sys.stdin.buffer if name == STANDARD else stack.enter_context(Path(name).open("rb"))
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise UsageError(f"{shown(name, PATH_BYTES)} can't be read: {error.strerror}", code="usage.input") from error


def digest_document(payload: Iterable[bytes]) -> dict[str, Any]:
    """What stands for a payload in a request: ``{"alg", "digest", "size"}``."""
    found = Payload.of_chunks(payload)
    return {"alg": "sha-512", "digest": found.digest.hex(), "size": found.size}


def nonce_hex(text: str, what: str) -> str:
    """A relying party's nonce as the agent takes it. Raises UsageError naming ``what``."""
    try:
        nonce = bytes.fromhex(text)
    except ValueError as error:
        raise UsageError(f"{what}: a nonce is given in hex, two digits a byte") from error
    if not NONCE_MIN <= len(nonce) <= NONCE_MAX:
        raise UsageError(f"{what}: a nonce has {NONCE_MIN} to {NONCE_MAX} bytes, not {len(nonce)}")
    return nonce.hex()


def write(made: bytes, output: str, mode: int = 0o666) -> None:
    """To standard output for "-", else a file of this ``mode`` less the umask. Raises UsageError (``usage.output``)."""
    if output == STANDARD:
        sys.stdout.buffer.write(made)
        return
    target = Path(output)
    try:
        if files.is_stream(target):
            files.append(target, made)
        else:
            _replace(target, made, mode)
    except BrokenPipeError:
        raise  # as on standard output: the reader left
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}", code="usage.output") from error


def _replace(target: Path, made: bytes, mode: int) -> None:
    # Whole or not at all: nobody finds half a bundle under the name.
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(made)
        partial.replace(target)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
