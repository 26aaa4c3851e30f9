"""Options that `verify` and `evidence verify` share: where trust, time and policy come from on a command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from agent.core import binding
from agent.core.binding import Scope
from agent.core.canonical import shown
from agent.core.challenge import NONCE_MAX, NONCE_MIN
from agent.core.errors import UsageError
from agent.core.model import Endorsements, ReportData, TrustAnchor
from agent.core.policy import MAX_BYTES as MAX_POLICY
from agent.core.policy import Floor, Policy
from agent.core.rules import hex_bytes
from agent.verify import policysign
from agent.verify.evidence import anchor_from_pem, genuine_anchors
from agent.verify.files import read_file
from agent.verify.shelf import Shelf

MAX_ROOT = 1 << 16
"""Longest PEM file of a trust root."""
MAX_AUDIENCE = 256
_BOOT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """--trust-root, --collateral, --at, --allow, --policy-trust, --vmpl."""
    parser.add_argument(
        "--trust-root",
        action="append",
        default=[],
        metavar="PEM",
        help="also trust this root certificate; what it decides is marked as an added root's",
    )
    parser.add_argument(
        "--collateral", metavar="DIR", help="your own certificates, CRLs, TCB info and QE identity, any file names"
    )
    parser.add_argument("--at", metavar="TIME", help="verify as of this instant (RFC 3339); default: now")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAME",
        help="lift one item of the floor: debug, sept-ve, vmpl (commas between several)",
    )
    parser.add_argument(
        "--policy-trust",
        action="append",
        default=[],
        metavar="PEM|DIR",
        help="the policy must be signed by one of these keys (public keys, certificates); without, nobody looks",
    )
    parser.add_argument("--vmpl", type=int, default=0, metavar="N", help="VMPL expected in an SNP report (default 0)")


def add_binding(parser: argparse.ArgumentParser) -> None:
    """--nonce, --boot-id, --audience."""
    parser.add_argument("--nonce", metavar="HEX", help="the nonce that you gave: the evidence must be over it")
    parser.add_argument("--boot-id", metavar="ID", help="with --nonce: the boot id that evidence collect printed")
    parser.add_argument("--audience", metavar="TEXT", help="with --nonce: the audience it printed (default: none)")


def report_data(args: argparse.Namespace) -> ReportData | None:
    """What purpose ``collect`` binds for these options; None where no nonce is given. Raises UsageError."""
    if args.nonce is None:
        if args.boot_id is not None or args.audience is not None:
            raise UsageError("--boot-id and --audience go with --nonce")
        return None
    if args.boot_id is None or not _BOOT_ID.fullmatch(args.boot_id):
        raise UsageError("--nonce needs --boot-id, as evidence collect printed it", hint="8-4-4-4-12 hex digits")
    audience = require_text("--audience", args.audience, MAX_AUDIENCE) or ""
    nonce = octets("--nonce", args.nonce, NONCE_MIN, NONCE_MAX)
    return binding.collect(Scope(audience, args.boot_id), nonce)


def anchors(args: argparse.Namespace) -> tuple[TrustAnchor, ...]:
    """The vendors' roots, then the added ones. Raises UsageError, FormatError."""
    added = [anchor_from_pem(read_file(name, MAX_ROOT), name) for name in args.trust_root]
    return (*genuine_anchors(), *added)


def collateral(folder: str | None, blob: bytes) -> Endorsements:
    """What the folder holds for this evidence; nothing without a folder."""
    found = shelf(folder)
    return found.select(blob) if found else Endorsements()


def shelf(folder: str | None) -> Shelf | None:
    """The folder, for evidence that is not at hand yet; None without a folder."""
    return Shelf.load(Path(folder)) if folder else None


def instant(text: str | None) -> datetime:
    """The time to verify as of, aware. Raises UsageError."""
    if text is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--at: {shown(text)} is not a time", hint="for example 2026-11-22T08:00:00Z") from error
    if moment.tzinfo is None:
        raise UsageError(f"--at: {shown(text)} has no time zone", hint="for example 2026-11-22T08:00:00Z")
    return moment.astimezone(UTC)


def floor(args: argparse.Namespace) -> Floor:
    """Raises UsageError for names that are not on the floor."""
    names = [name for value in args.allow for name in value.split(",")]
    return Floor(vmpl=args.vmpl, allow=frozenset(names))


def policy(name: str | None, trust: Sequence[str]) -> Policy | None:
    """The policy in a file, signed by one of the keys in ``trust`` (files, folders) if there are any.

    Raises UsageError, FormatError, Oversized, SignatureInvalid.
    """
    if name is None:
        if trust:
            raise UsageError("--policy-trust says who may sign the policy, and there is no --policy")
        return None
    found = Policy.from_bytes(read_file(name, MAX_POLICY))
    return policysign.verified(found, policysign.load_keys([Path(place) for place in trust])) if trust else found


def octets(option: str, text: str | None, low: int, high: int) -> bytes:
    """``low`` to ``high`` bytes from hex, b"" where the option is not given. Raises UsageError."""
    if text is None:
        return b""
    data = hex_bytes(text)
    if data is None or not low <= len(data) <= high:
        span = f"{low}" if low == high else f"{low} to {high}"
        raise UsageError(f"{option}: {shown(text)} is not {span} bytes as hex")
    return data


def require_text(option: str, text: str | None, limit: int) -> str | None:
    """Text as a bundle can hold it. Raises UsageError."""
    try:
        if text is not None and len(text.encode()) > limit:
            raise UsageError(f"{option} has more than {limit} bytes")
    except UnicodeEncodeError as error:
        raise UsageError(f"{option} is not valid text") from error
    return text
