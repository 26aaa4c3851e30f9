"""`tee-agent audit verify | tail`: whether the audit log's chain holds, and what it says."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from agent import auditlog, settings
from agent.auditlog import Line, Verified
from agent.audittext import record_json, words
from agent.core.canonical import printable, rfc3339
from agent.core.errors import UsageError
from agent.verify import options

HELP = "Verify the audit log's chain, or show its newest records."
MAX_LINES = 100_000
_EXAMPLE = """examples:
  tee-agent audit verify
  tee-agent audit verify --head "$(cat head.noted)"
  tee-agent audit tail -n 20
  tee-agent audit tail --follow --json | jq .kind
"""
_END_OPEN = "the end: no head was given, so lines cut off there, or a changed last line, don't show"
_WRITER = "who wrote it: root and the signer's user can write another chain that holds"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="verify | tail", required=True)
    verify = actions.add_parser("verify", help="follow the chain through all files")
    verify.add_argument("files", nargs="*", type=Path, metavar="FILE", help="oldest first (default: the log in use)")
    verify.add_argument("--head", metavar="HEX", help="a head that was noted: its record must be there")
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
    found = auditlog.verify_files(args.files, head) if args.files else auditlog.verify_folder(_folder(args), head)
    if args.json:
        sys.stdout.write(json.dumps(_document(found, head), indent=2) + "\n")
    elif not args.quiet:
        sys.stdout.write(_text(found, head))
    return 0


def _document(found: Verified, head: bytes | None) -> dict[str, Any]:
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
        "severities": found.counts,
        "not_checked": [_WRITER] if head else [_END_OPEN, _WRITER],
    }


def _text(found: Verified, head: bytes | None) -> str:
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
    lines += ["not checked:", *([] if head else [f"  - {_END_OPEN}"]), f"  - {_WRITER}"]
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
