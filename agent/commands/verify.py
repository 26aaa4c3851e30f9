"""`tee-agent verify`: judge one bundle, offline, as somebody who trusts nothing but the vendors' roots."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import timedelta

from agent.core.bundle import MAX_BYTES, TEXT_BYTES, Payload
from agent.core.errors import FormatError, UsageError, VerificationError
from agent.verify import options
from agent.verify.bundle import SKEW, BundleVerdict, verify_bundle
from agent.verify.files import chunks, read_file
from agent.verify.report import failure_json
from agent.verify.text import bundle_lines, check_lines

HELP = "Verify a signature bundle, offline."

_EXAMPLE = """examples:
  tee-agent verify release.bundle --payload release.tar --policy policy.json
  tee-agent verify release.bundle --payload release.tar --measurement 0f3a... --audience ci.example
  tee-agent verify release.bundle --any-workload --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    parser.add_argument("bundle", metavar="BUNDLE", help="the bundle; - for standard input")
    parser.add_argument("--payload", metavar="FILE", help="what should have been signed; - for standard input")
    workload = parser.add_argument_group("workload (exactly one way is required)")
    workload.add_argument("--policy", metavar="FILE", help="a policy, as the attestation service's")
    workload.add_argument("--measurement", metavar="HEX", help="SNP: the launch measurement, 48 bytes")
    workload.add_argument("--mrtd", metavar="HEX", help="TDX: MRTD, 48 bytes; needs --rtmr 0, 1 and 2")
    workload.add_argument("--rtmr", action="append", default=[], metavar="N=HEX", help="TDX: one RTMR, 48 bytes")
    workload.add_argument("--any-workload", action="store_true", help="accept whatever runs there")
    asked = parser.add_argument_group("what else it must say")
    asked.add_argument("--nonce", metavar="HEX", help="the nonce that you asked with (16 to 64 bytes)")
    asked.add_argument("--audience", metavar="TEXT", help="whom the signature must be for")
    asked.add_argument("--context", metavar="TEXT", help="the context it must be made in")
    asked.add_argument("--key", metavar="SHA256", help="SHA-256 of the signer's SubjectPublicKeyInfo")
    options.add_trust(parser)
    parser.add_argument(
        "--skew",
        type=int,
        default=int(SKEW.total_seconds()),
        metavar="SECONDS",
        help="how far the signer's clock may be off (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0; what fails is raised, or printed with --json and returned as its exit status."""
    try:
        verdict = _verify(args)
    except (FormatError, VerificationError) as error:
        if args.json:
            _print(json.dumps(failure_json(error), indent=2))
            return error.exit_status
        if not args.quiet and isinstance(error, VerificationError):
            _print("\n".join(["bundle: REFUSED", *check_lines(error.checks)]))
        raise
    if args.json:
        _print(json.dumps(verdict.to_json(), indent=2))
    elif not args.quiet:
        _print("\n".join([*bundle_lines(verdict, args.payload or ""), f"bundle: {_summary(verdict)}"]))
    return 0


def _summary(verdict: BundleVerdict) -> str:
    return "valid, under an ADDED ROOT" if verdict.verified.added_root else "valid"


def _verify(args: argparse.Namespace) -> BundleVerdict:
    if args.bundle == "-" and args.payload == "-":
        raise UsageError("bundle and payload can't both come from standard input")
    if args.skew < 0:
        raise UsageError("--skew is a number of seconds, 0 or more")
    data = read_file(args.bundle, MAX_BYTES)
    return verify_bundle(
        data,
        Payload.of_chunks(chunks(args.payload)) if args.payload else None,
        at=options.instant(args.at),
        anchors=options.anchors(args),
        policy=options.policy(args.policy, args.policy_trust),
        measurement=options.octets("--measurement", args.measurement, 48, 48),
        mrtd=options.octets("--mrtd", args.mrtd, 48, 48),
        rtmrs=_rtmrs(args.rtmr),
        any_workload=args.any_workload,
        floor=options.floor(args),
        nonce=options.octets("--nonce", args.nonce, 16, 64) or None,
        audience=options.require_text("--audience", args.audience, TEXT_BYTES),
        context=options.require_text("--context", args.context, TEXT_BYTES),
        key=options.octets("--key", args.key and args.key.removeprefix("sha256:"), 32, 32) or None,
        skew=timedelta(seconds=args.skew),
        collateral=options.shelf(args.collateral),
    )


def _rtmrs(given: list[str]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for text in given:
        number, separator, value = text.partition("=")
        if not separator or number not in ("0", "1", "2", "3") or int(number) in found:
            raise UsageError("--rtmr wants N=HEX, N from 0 to 3, each once", hint="for example --rtmr 0=9a1f...")
        found[int(number)] = options.octets(f"--rtmr {number}", value, 48, 48)
    return found


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
