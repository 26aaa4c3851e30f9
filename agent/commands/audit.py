"""`tee-agent audit verify | tail`: whether the audit log's chain holds, and what it says."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from agent import auditlog, settings
from agent.auditlog import Line, Verified
from agent.auditpoints import Against
from agent.audittext import record_json, words
from agent.core.canonical import printable, rfc3339
from agent.core.errors import UsageError
from agent.verify import options

HELP = "Verify the audit log's chain, or show its newest records."
MAX_LINES = 100_000
_EXAMPLE = """examples:
  tee-agent audit verify
  tee-agent audit verify --head "$(cat head.noted)"
  tee-agent audit verify --key release.bundle --key shop.key
  tas audit heads --json >heads.json; tee-agent audit verify --tas-heads heads.json
  tee-agent audit tail -n 20
  tee-agent audit tail --follow --json | jq .kind
"""
_END_OPEN = "the end: no head was given and no key, so lines cut off there, or a changed last line, don't show"
_WRITER = "who wrote it: root and the signer's user can write another chain that holds"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="verify | tail", required=True)
    verify = actions.add_parser("verify", help="follow the chain through all files")
    verify.add_argument("files", nargs="*", type=Path, metavar="FILE", help="oldest first (default: the log in use)")
    verify.add_argument("--head", metavar="HEX", help="a head that was noted: its record must be there")
    verify.add_argument(
        *("--key",),
        action="append",
        default=[],
        metavar="FILE",
        help="a bundle, key document or EAT: the record that its key's statement names must be there",
    )
    verify.add_argument("--tas-heads", metavar="FILE", help="what `tas audit heads --json` printed: so must these")
    tail = actions.add_parser("tail", help="the newest records in words; their chain is not verified")
    tail.add_argument("-n", type=int, default=10, metavar="N", help="how many (default 10)")
    tail.add_argument("--follow", action="store_true", help="go on as they come; with --json one document a line")
    for action in (verify, tail):
        action.add_argument("--folder", type=Path, metavar="DIR", help="default: as the configuration says")


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises VerificationError, UsageError, ConfigError."""
    return {"verify": _verify, "tail": _tail}[args.action](args)


def _folder(args: argparse.Namespace) -> Path:
    if args.folder is not None:
        return Path(args.folder)
    return settings.load(args.config.absolute()).audit.folder


def _verify(args: argparse.Namespace) -> int:
    head = options.octets("--head", args.head, 32, 32) or None
    if args.files and args.folder:
        raise UsageError("either files or --folder")
    against = Against.read(args.key, args.tas_heads)
    if args.files:
        found = auditlog.verify_files(args.files, head, against.held)
    else:
        found = auditlog.verify_folder(_folder(args), head, against.held)
    against.require_use()
    if args.json:
        sys.stdout.write(json.dumps(_document(found, head, against), indent=2) + "\n")
    elif not args.quiet:
        sys.stdout.write(_text(found, head, against))
    return 0


def _document(found: Verified, head: bytes | None, against: Against) -> dict[str, Any]:
    first, last = found.head.first, found.head.last
    return {
        "valid": True,
        "files": list(found.files),
        "records": last.seq - first.seq + 1,
        "first": {"seq": first.seq, "time": rfc3339(first.time)},
        "last": {"seq": last.seq, "time": rfc3339(last.time)},
        "head": found.head.digest.hex(),
        "expected_head": head.hex() if head else None,
        "after_expected": found.head.after if head else None,
        **against.to_json(),
        "severities": found.counts,
        "not_checked": _not_checked(found, head, against),
    }


def _not_checked(found: Verified, head: bytes | None, against: Against) -> list[str]:
    last = found.head.last.seq
    known = [last - found.head.after] if head else []
    known += [point.seq for point in against.held.found]
    end = [_END_OPEN] if not known else []
    if known and max(known) < last:
        end = [f"the end: lines cut off behind record {max(known)}, the last that something else names, don't show"]
    return [*end, *against.not_checked(), _WRITER]


def _text(found: Verified, head: bytes | None, against: Against) -> str:
    first, last = found.head.first, found.head.last
    counts = ", ".join(f"{count} {severity}" for severity, count in found.counts.items() if count)
    lines = [
        f"audit log: the chain holds, records {first.seq} to {last.seq} in {len(found.files)} files",
        f"from: {rfc3339(first.time)} to {rfc3339(last.time)}, by the guest's clock",
        f"severities: {counts}",
        f"head: {found.head.digest.hex()}",
    ]
    if first.seq:
        lines.append(f"before: {first.seq} older records are not here")
    if head:
        lines.append(f"expected head: found, {found.head.after} records follow it")
    lines += [*against.lines(), "not checked:", *(f"  - {what}" for what in _not_checked(found, head, against))]
    return "\n".join(lines) + "\n"


def _tail(args: argparse.Namespace) -> int:
    if not 0 <= args.n <= MAX_LINES:
        raise UsageError(f"-n: must be 0 to {MAX_LINES}")
    folder = _folder(args)
    found = auditlog.last(folder, max(1, args.n))
    shown = found[len(found) - args.n :] if args.n < len(found) else found
    if args.json and not args.follow:
        sys.stdout.write(json.dumps({"records": [record_json(line) for line in shown]}, indent=2) + "\n")
        return 0
    for line in shown:
        _say(line, as_json=args.json)
    if args.follow:
        numbers = [line.record.seq for line in found if line.record]
        for line in auditlog.follow(folder, max(numbers, default=-1)):
            _say(line, as_json=args.json)
    return 0


def _say(line: Line, *, as_json: bool) -> None:
    text = json.dumps(record_json(line)) if as_json else printable(words(line))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
