"""`tee-agent verify`: judge what an attested key signed, offline, as somebody who trusts only the vendors' roots."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import timedelta

from agent.core import attachdoc, compact, eat
from agent.core.bundle import TEXT_BYTES, Payload
from agent.core.bundle_parts import MAX_BYTES as MAX_ATTACHMENTS
from agent.core.challenge import NONCE_MIN
from agent.core.cose import MAX_PAYLOAD
from agent.core.errors import FormatError, UsageError, VerificationError
from agent.core.keydoc import MAX_BYTES as MAX_KEY
from agent.core.statement import STORAGES, USES
from agent.verify import kinds, options
from agent.verify.bundle import BundleVerdict, verify_bundle
from agent.verify.cose import verify_cose
from agent.verify.eat import verify_eat
from agent.verify.files import chunks, read_file
from agent.verify.jws import verify_jws
from agent.verify.keydoc import verify_key
from agent.verify.report import failure_json
from agent.verify.signed import SKEW, Judge, KeyVerdict
from agent.verify.signedtext import key_lines
from agent.verify.ssh import verify_ssh
from agent.verify.text import bundle_lines, check_lines
from agent.verify.workload import Workload

HELP = "Verify a bundle, a key, a JWS, COSE_Sign1, EAT or ssh signature, offline."

_EXAMPLE = """examples:
  tee-agent verify release.bundle --payload release.tar --policy policy.json
  tee-agent verify release.bundle --payload release.tar --measurement 0f3a... --audience ci.example
  tee-agent verify release.bundle --any-workload --json
  tee-agent verify release.compact --attachments agent.attachments --payload release.tar --policy policy.json
  tee-agent verify order.jws --key-document shop.key --policy policy.json --context orders
  tee-agent verify release.sig --key-document ci.key --payload release.tar --context file --policy policy.json
  tee-agent verify token.eat --policy policy.json --nonce 6b1f... --audience ci.example
"""
_OPTIONS = {
    kinds.BUNDLE: ("payload", "nonce", "audience", "context"),
    kinds.COMPACT: ("attachments", "payload", "nonce", "audience", "context"),
    kinds.KEY: ("use",),
    kinds.JWS: ("key_document", "payload", "audience", "context"),
    kinds.COSE: ("key_document", "payload", "audience", "context"),
    kinds.EAT: ("nonce", "audience"),
    kinds.SSH: ("key_document", "payload", "context"),
}
"""What can be asked of each kind of file."""
_ASKED = ("key_document", "attachments", "payload", "nonce", "audience", "context", "use")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    parser.add_argument(
        "bundle", metavar="FILE", help="bundle, key document, JWS, COSE_Sign1, EAT or ssh signature; - for stdin"
    )
    parser.add_argument(
        "--attachments", metavar="FILE", help="compact bundle: its attachments, or a bundle or key document with them"
    )
    parser.add_argument("--payload", metavar="FILE", help="what should have been signed; - for standard input")
    parser.add_argument("--key-document", metavar="FILE", help="JWS, COSE, ssh: the signing key's document; - likewise")
    workload = parser.add_argument_group("workload (exactly one way is required)")
    workload.add_argument("--policy", metavar="FILE", help="a policy, as the attestation service's")
    workload.add_argument("--measurement", metavar="HEX", help="SNP: the launch measurement, 48 bytes")
    workload.add_argument("--mrtd", metavar="HEX", help="TDX: MRTD, 48 bytes; needs --rtmr 0, 1 and 2")
    workload.add_argument("--rtmr", action="append", default=[], metavar="N=HEX", help="TDX: one RTMR, 48 bytes")
    workload.add_argument("--any-workload", action="store_true", help="accept whatever runs there")
    asked = parser.add_argument_group("what else it must say")
    asked.add_argument("--nonce", metavar="HEX", help="the nonce that you asked with (16 to 64 bytes; EAT: 8 to 64)")
    asked.add_argument("--audience", metavar="TEXT", help="whom the signature must be for")
    asked.add_argument("--context", metavar="TEXT", help="the context it must be made in")
    asked.add_argument("--key", metavar="SHA256", help="SHA-256 of the signer's SubjectPublicKeyInfo")
    asked.add_argument(
        "--storage",
        action="append",
        choices=sorted(STORAGES),
        help="where the signer's key may be kept; memory: of this boot only (repeatable)",
    )
    asked.add_argument("--use", choices=sorted(USES), help="key document: what the key must be for")
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
    kind = kinds.BUNDLE
    try:
        _require_options(args)
        data = read_file(args.bundle, kinds.MAX_BYTES)
        kind = kinds.kind_of(data)
        _require_fitting(args, kind)
        verdict = _verify(args, kind, data)
    except (FormatError, VerificationError) as error:
        if args.json:
            _print(json.dumps(failure_json(error), indent=2))
            return error.exit_status
        if not args.quiet and isinstance(error, VerificationError):
            _print("\n".join([f"{kind}: REFUSED", *check_lines(error.checks)]))
        raise
    if args.json:
        _print(json.dumps(verdict.to_json(), indent=2))
    elif not args.quiet:
        _print("\n".join([*_lines(verdict, args.payload or ""), f"{kind}: {_summary(verdict)}"]))
    return 0


def _lines(verdict: BundleVerdict | KeyVerdict, payload: str) -> list[str]:
    return list(bundle_lines(verdict, payload) if isinstance(verdict, BundleVerdict) else key_lines(verdict, payload))


def _summary(verdict: BundleVerdict | KeyVerdict) -> str:
    return "valid, under an ADDED ROOT" if verdict.verified.added_root else "valid"


def _require_options(args: argparse.Namespace) -> None:
    if [args.bundle, args.payload, args.key_document, args.attachments].count("-") > 1:
        what = "bundle and payload" if args.payload == args.bundle == "-" else "two files"
        raise UsageError(f"{what} can't both come from standard input")
    if args.skew < 0:
        raise UsageError("--skew is a number of seconds, 0 or more")


def _require_fitting(args: argparse.Namespace, kind: str) -> None:
    """Every option that is given means something for this kind of file. Raises UsageError."""
    if "key_document" in _OPTIONS[kind] and args.key_document is None:
        raise UsageError(
            f"a {kind} does not hold its signer's evidence: --key-document FILE is needed",
            hint="every attested key has one (docs/formats.md)",
        )
    if kind == kinds.COMPACT and args.attachments is None:
        raise UsageError(
            "a compact bundle names its evidence by a digest: --attachments FILE is needed",
            hint="the agent that signed has it: GET /v1/attachments/DIGEST (docs/bundle.md)",
        )
    if kind == kinds.SSH and args.payload is None:
        raise UsageError(f"an {kind} does not hold what it signs: --payload FILE is needed")
    for name in _ASKED:
        if name not in _OPTIONS[kind] and getattr(args, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} means nothing for this file, a {kind}")


def _verify(args: argparse.Namespace, kind: str, data: bytes) -> BundleVerdict | KeyVerdict:
    if kind == kinds.COMPACT:
        attachments = attachdoc.decode_any(read_file(args.attachments, MAX_ATTACHMENTS))
        data = compact.join(compact.decode(data), attachments).encode()
    if kind in (kinds.BUNDLE, kinds.COMPACT):
        return _verify_bundle(args, data)
    return _verify_other(args, kind, data)


def _judge(args: argparse.Namespace) -> Judge:
    return Judge(
        at=options.instant(args.at),
        workload=_workload(args),
        anchors=options.anchors(args),
        floor=options.floor(args),
        key=_key(args),
        skew=timedelta(seconds=args.skew),
        collateral=options.shelf(args.collateral),
        storage=_storage(args),
    )


def _verify_other(args: argparse.Namespace, kind: str, data: bytes) -> KeyVerdict:
    judge = _judge(args)
    audience, context = _texts(args)
    if kind == kinds.KEY:
        return verify_key(data, judge, use=args.use)
    if kind == kinds.EAT:
        nonce = options.octets("--nonce", args.nonce, eat.NONCE_MIN, eat.NONCE_MAX) or None
        return verify_eat(data, judge, nonce=nonce, audience=audience)
    if kind == kinds.SSH:
        document = read_file(args.key_document, MAX_KEY)
        return verify_ssh(data, document, judge, payload=chunks(args.payload), context=context)
    verify = verify_jws if kind == kinds.JWS else verify_cose
    payload = None if args.payload is None else read_file(args.payload, MAX_PAYLOAD)
    document = read_file(args.key_document, MAX_KEY)
    return verify(data, document, judge, payload=payload, context=context, audience=audience)


def _verify_bundle(args: argparse.Namespace, data: bytes) -> BundleVerdict:
    judge, (audience, context) = _judge(args), _texts(args)
    payload = Payload.of_chunks(chunks(args.payload)) if args.payload else None
    nonce = options.octets("--nonce", args.nonce, NONCE_MIN, 64) or None
    return verify_bundle(data, judge, payload=payload, nonce=nonce, audience=audience, context=context)


def _workload(args: argparse.Namespace) -> Workload:
    return Workload(
        options.policy(args.policy, args.policy_trust),
        options.octets("--measurement", args.measurement, 48, 48),
        options.octets("--mrtd", args.mrtd, 48, 48),
        _rtmrs(args.rtmr),
        args.any_workload,
    )


def _texts(args: argparse.Namespace) -> tuple[str | None, str | None]:
    audience = options.require_text("--audience", args.audience, TEXT_BYTES)
    return audience, options.require_text("--context", args.context, TEXT_BYTES)


def _key(args: argparse.Namespace) -> bytes | None:
    return options.octets("--key", args.key and args.key.removeprefix("sha256:"), 32, 32) or None


def _storage(args: argparse.Namespace) -> frozenset[str] | None:
    return None if args.storage is None else frozenset(args.storage)


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
