"""`tee-agent eventlog show | verify | extend`: what a TDX guest's boot measured, and whether the registers agree."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from agent.core.errors import FormatError, PlatformError, TeeAgentError
from agent.rtmr import Registers, read_event_log
from agent.verify import options
from agent.verify.eventlog import MAX_LOG, Judged, judge, log_json, quote_registers, registers_json
from agent.verify.eventtext import live_lines, log_lines, register_lines
from agent.verify.evidence import MAX_BYTES
from agent.verify.files import chunks, read_file
from agent.verify.report import checks_json
from agent.verify.text import check_lines, not_checked_lines
from tdx.event import DIGEST_SIZE
from tdx.eventlog import parse

HELP = "Show a TDX guest's event log, replay it against RTMRs, extend an RTMR."

_EXAMPLE = """examples:
  tee-agent eventlog show
  tee-agent eventlog verify ccel.bin --quote quote.bin
  tee-agent eventlog extend --rtmr 3 --file /etc/app/config.json
"""
_WARNING = """Extends RTMR2 or RTMR3 of this machine by a SHA-384 digest.

THIS CAN'T BE UNDONE before the next boot, and every policy that pins the register
refuses the machine from now on: a secret bound to RTMR2 won't be released again in
this boot. Only root may do it, and the kernel keeps no record: keep one yourself.
"""
_UNSIGNED = "registers: no signature was verified, they are what {} says"
_FILE = "CCEL area or JSON log; - for standard input (default: this machine's)"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="show | verify | extend", required=True)
    show = actions.add_parser("show", help="every event in words, and what the log replays to")
    verify = actions.add_parser("verify", help="replay the log against a quote's RTMRs, or this machine's")
    for action in (show, verify):
        action.add_argument("file", nargs="?", metavar="FILE", help=_FILE)
    verify.add_argument("--quote", metavar="QUOTE", help="TDX quote; its signature is not verified here")
    extend = actions.add_parser(
        "extend",
        help="extend RTMR2 or 3: irreversible until reboot",
        description=_WARNING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    extend.add_argument("--rtmr", type=int, choices=(2, 3), required=True, help="which register")
    what = extend.add_mutually_exclusive_group(required=True)
    what.add_argument("--digest", metavar="HEX", help="SHA-384 digest (48 bytes)")
    what.add_argument("--file", metavar="FILE", help="extend by the SHA-384 of this file; - for standard input")


def run(args: argparse.Namespace) -> int:
    """Returns the exit status; what fails is raised."""
    return {"show": _show, "verify": _verify, "extend": _extend}[args.action](args)


def _show(args: argparse.Namespace) -> int:
    log = parse(_log(args.file))
    live = {} if args.file else _registers()
    document = {**log_json(log), "registers": {name: value.hex() for name, value in live.items()} or None}
    lines = [] if args.json else [*log_lines(log), *live_lines(live)]
    _say(args, document, lines)
    return 0


def _registers() -> Mapping[str, bytes]:
    """This machine's registers by the kernel's names; none where the kernel does not show them to us."""
    try:
        return Registers().read_all()
    except PlatformError:
        return {}


def _verify(args: argparse.Namespace) -> int:
    data = _log(args.file)
    if args.quote:
        actual, source = quote_registers(read_file(args.quote, MAX_BYTES)), "the quote"
    else:
        actual, source = Registers().read(), "this machine's kernel"
    try:
        judged = judge(data, actual)
    except FormatError as error:
        if not args.json:
            raise
        _say(args, {"valid": False, "checks": [], "registers": [], "error": _error_json(error)}, [])
        return error.exit_status
    return _verdict(args, judged, source)


def _verdict(args: argparse.Namespace, judged: Judged, source: str) -> int:
    problem = None if judged.ok else judged.problem()
    document: dict[str, Any] = {
        "valid": judged.ok,
        "source": source,
        "registers": registers_json(judged.registers),
        "checks": checks_json(judged.checks),
        "not_checked": [_UNSIGNED.format(source), *judged.not_checked],
        "error": _error_json(problem) if problem else None,
    }
    lines = [*register_lines(judged.registers, source), *check_lines(judged.checks)]
    lines += [*not_checked_lines(document["not_checked"]), f"event log: {'agrees' if judged.ok else 'REFUSED'}"]
    _say(args, document, lines)
    if problem and not args.json:
        raise problem
    return problem.exit_status if problem else 0


def _extend(args: argparse.Namespace) -> int:
    digest = _digest(args)
    before, after = Registers().extend(args.rtmr, digest)
    name = f"rtmr{args.rtmr}"
    document = {"register": name, "digest": digest.hex(), "before": before.hex(), "after": after.hex()}
    lines = [f"{name}: extended by {digest.hex()}", f"  before {before.hex()}", f"  after  {after.hex()}"]
    _say(args, document, [*lines, "  not undone before the next boot; no log has it: keep the digest"])
    return 0


def _digest(args: argparse.Namespace) -> bytes:
    if args.digest is not None:
        return options.octets("--digest", args.digest, DIGEST_SIZE, DIGEST_SIZE)
    state = hashlib.sha384()
    for piece in chunks(args.file):
        state.update(piece)
    return state.digest()


def _log(name: str | None) -> bytes:
    return read_file(name, MAX_LOG) if name else read_event_log()


def _error_json(error: TeeAgentError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def _say(args: argparse.Namespace, document: Mapping[str, Any], lines: list[str]) -> None:
    if args.json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif not args.quiet:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
