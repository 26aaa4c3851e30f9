"""`tee-agent evidence collect | show | verify`: one SNP report or TDX quote, made here or from a file."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.admin.collect import collect_to
from agent.core.challenge import NONCE_MAX, NONCE_MIN
from agent.core.errors import FormatError, TeeAgentError, VerificationError
from agent.core.model import Endorsements, ReportData, TrustAnchor, Verified
from agent.core.policy import Floor, Policy
from agent.verify import options
from agent.verify.endorsements import MAX_AUXBLOB, from_auxblob
from agent.verify.eventlog import MAX_LOG, judge_evidence
from agent.verify.evidence import MAX_BYTES, NO_POLICY, appraise, parse_fields, signature_valid, verify_vendor
from agent.verify.files import read_file
from agent.verify.report import checks_json, failure_json, verified_json
from agent.verify.show import evidence_table
from agent.verify.text import check_lines, evidence_lines, not_checked_lines

HELP = "Collect, show or verify evidence: SNP reports, TDX quotes."

_TCB_STATUS = {"verify.tcb.no-level": "NoMatchingLevel", "verify.tcb.revoked": "Revoked"}
_EXAMPLE = """examples:
  tee-agent evidence collect --nonce 00112233445566778899aabbccddeeff --out report.bin
  tee-agent evidence show report.bin
  tee-agent evidence verify report.bin --certs certs/ --policy policy.json
  tee-agent evidence verify quote.bin --collateral collateral/ --at 2026-02-10T00:00:00Z --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="collect | show | verify", required=True)
    _configure_collect(actions.add_parser("collect", help="fresh evidence of this machine, over a verifier's nonce"))
    show = actions.add_parser("show", help="print what the evidence says; believe nothing of it")
    show.add_argument("file", metavar="FILE", help="raw report or quote; - for standard input")
    verify = actions.add_parser("verify", help="check signature, chain, floor and, if given, policy")
    verify.add_argument("file", metavar="FILE", help="raw report or quote; - for standard input")
    verify.add_argument("--certs", metavar="DIR", help="the vendor's certificates and CRLs, any file names")
    verify.add_argument("--auxblob", metavar="FILE", help="SNP: the host's certificate table as the kernel gives it")
    verify.add_argument("--policy", metavar="FILE", help="a policy, as the attestation service's")
    verify.add_argument("--eventlog", metavar="FILE", help="TDX: an event log that must explain the quote's RTMRs")
    options.add_trust(verify)
    options.add_binding(verify)


def _configure_collect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nonce", required=True, metavar="HEX", help="the verifier's nonce: 16 to 64 bytes")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="where the report or quote goes")
    parser.add_argument("--auxblob", type=Path, metavar="FILE", help="SNP: where the host's certificate table goes")


def run(args: argparse.Namespace) -> int:
    """Returns the exit status; without --json, what fails is raised."""
    return {"collect": _collect, "show": _show, "verify": _verify}[args.action](args)


def _collect(args: argparse.Namespace) -> int:
    nonce = options.octets("--nonce", args.nonce, NONCE_MIN, NONCE_MAX)
    written = collect_to(args.config, nonce, args.out, args.auxblob)
    if args.json:
        _print(json.dumps(written.to_json(), indent=2))
    elif not args.quiet:
        _print("\n".join(written.lines()))
    if args.auxblob and not written.auxblob and not args.quiet:
        sys.stderr.write(f"tee-agent: the host passes no certificates on: {args.auxblob} is not written\n")
    return 0


def _show(args: argparse.Namespace) -> int:
    tee, version, fields = parse_fields(read_file(args.file, MAX_BYTES))
    if args.json:
        _print(json.dumps({"tee": tee.value, "version": version, "verified": False, "fields": fields}, indent=2))
    elif not args.quiet:
        _print("\n".join(evidence_table(tee, version, fields)))
    return 0


def _verify(args: argparse.Namespace) -> int:
    blob = read_file(args.file, MAX_BYTES)
    request = _Request(
        _endorsements(args, blob),
        options.instant(args.at),
        options.anchors(args),
        options.policy(args.policy, args.policy_trust),
        options.floor(args),
        options.report_data(args),
        read_file(args.eventlog, MAX_LOG) if args.eventlog else None,
    )
    verified: Verified | None = None
    try:
        verified = request.vendor(blob)
        appraised = request.appraise(verified)
    except (FormatError, VerificationError) as error:
        if args.json:
            _print(json.dumps(_refusal(blob, request, verified, error), indent=2))
            return error.exit_status
        if not args.quiet and isinstance(error, VerificationError):
            _print("\n".join(["evidence: REFUSED", *check_lines(error.checks)]))
        raise
    if args.json:
        _print(json.dumps(_acceptance(appraised), indent=2))
    elif not args.quiet:
        lines = [*evidence_lines(appraised), *check_lines(appraised.checks), *not_checked_lines(appraised.not_checked)]
        _print("\n".join([*lines, f"evidence: valid{', under an ADDED ROOT' if appraised.added_root else ''}"]))
    return 0


@dataclass(frozen=True, slots=True)
class _Request:
    endorsements: Endorsements
    at: datetime
    anchors: tuple[TrustAnchor, ...]
    policy: Policy | None
    floor: Floor
    report_data: ReportData | None
    eventlog: bytes | None

    def vendor(self, blob: bytes) -> Verified:
        """The vendor's checks and the binding."""
        return verify_vendor(blob, self.endorsements, at=self.at, anchors=self.anchors, report_data=self.report_data)

    def appraise(self, verified: Verified) -> Verified:
        """Floor, policy and event log."""
        appraised = appraise(verified, policy=self.policy, floor=self.floor)
        return appraised if self.eventlog is None else judge_evidence(appraised, self.eventlog)


def _endorsements(args: argparse.Namespace, blob: bytes) -> Endorsements:
    found = options.collateral(args.collateral, blob).merged(options.collateral(args.certs, blob))
    if args.auxblob:
        found = found.merged(from_auxblob(read_file(args.auxblob, MAX_AUXBLOB)))
    return found


def _acceptance(verified: Verified) -> dict[str, Any]:
    checks = {"checks": checks_json(verified.checks), "not_checked": list(verified.not_checked)}
    return {"valid": True, "signature_valid": True, **verified_json(verified), **checks, "error": None}


def _refusal(blob: bytes, request: _Request, verified: Verified | None, error: TeeAgentError) -> dict[str, Any]:
    """What is known all the same: the fields, and the vendor's verdict if only floor or policy said no."""
    if verified:
        known = {"signature_valid": True, **verified_json(verified), "not_checked": list(verified.not_checked)}
    else:
        known = _unverified(blob, request) | {"tcb_status": _TCB_STATUS.get(error.code, "n/a"), "advisories": []}
    if request.policy is None:
        known["not_checked"].append(NO_POLICY)
    return {**failure_json(error), **known}


def _unverified(blob: bytes, request: _Request) -> dict[str, Any]:
    try:
        tee, version, fields = parse_fields(blob)
        signed = signature_valid(blob, request.endorsements, request.at)
    except FormatError:
        return {"tee": None, "version": None, "fields": None, "signature_valid": None, "not_checked": ["everything"]}
    return {
        "tee": tee.value,
        "version": version,
        "fields": fields,
        "signature_valid": signed,
        "not_checked": ["everything after the failed check"],
    }


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
