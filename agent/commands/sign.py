"""tee-agent sign: a signature over a file by the running agent, a bundle where nothing else is asked for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from agent.client import Key
from agent.commandio import chunks, client_of, digest_document, nonce_hex, output_option, socket_option, write
from agent.core.errors import UsageError
from agent.deadline import Deadline

HELP = "Have a file signed by the attested key, or by a named one; prints a bundle."
SIGN_SECONDS = 900.0
FORMATS = ("bundle", "raw", "jws", "cose", "eat", "ssh")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help="what to sign; - for standard input")
    parser.add_argument("--context", default="", metavar="TEXT", help="what the signature is for; verify --context")
    parser.add_argument("--audience", default="", metavar="TEXT", help="whom it is for; verify --audience")
    parser.add_argument("--fresh", metavar="NONCE", help="a relying party's nonce (16 to 64 bytes, hex): new evidence")
    _key_options(parser.add_argument_group("with a named key"))
    output_option(parser)
    socket_option(parser)
    parser.epilog = """\
example:
  tee-agent sign report.pdf --context invoices -o report.bundle
  tee-agent sign --key invoices invoice.json -o invoice.jws
  tee-agent verify report.bundle --payload report.pdf --context invoices --policy policy.json
"""


def run(args: argparse.Namespace) -> int:
    nonce = nonce_hex(args.fresh, "--fresh") if args.fresh is not None else None
    token = args.format == "eat"
    _require_sense(args, token=token)
    client = client_of(args)
    deadline = Deadline(SIGN_SECONDS, "signature")
    if token and nonce is not None:
        made = client.token(_key(args), {"nonce": nonce, "form": args.form}, _options(args), deadline)
    elif args.key:
        made = client.sign_with(_key(args), chunks(args.file), _options(args), deadline)
    elif nonce is None:
        made = client.sign(chunks(args.file), context=args.context, audience=args.audience, deadline=deadline)
    else:
        made = client.challenge(_challenge(chunks(args.file), nonce, args.context, args.audience), deadline)
    write(made, args.output)
    return 0


def _key_options(group: Any) -> None:
    group.add_argument("--key", metavar="NAME", default="", help="sign with this key (tee-agent keys)")
    group.add_argument("--namespace", default="", help="whose key it is; default: the caller's own")
    group.add_argument("--generation", type=int, default=0, metavar="N", help="an older one; default: the newest")
    group.add_argument("--format", choices=FORMATS, help="what you expect; the key's use decides, others are refused")
    group.add_argument("--form", choices=("json", "cbor"), default="json", help="of an EAT; default: %(default)s")
    group.add_argument("--content-type", default="", metavar="TYPE", help="of the payload, in a COSE_Sign1")
    group.add_argument("--detached", action="store_true", help="leave the payload out of a COSE_Sign1")


def _require_sense(args: argparse.Namespace, *, token: bool) -> None:
    if not args.key and (args.format not in (None, "bundle") or args.namespace or args.generation):
        raise UsageError("--format, --namespace and --generation are about a named key: --key NAME")
    if token and (args.file is not None or args.fresh is None):
        raise UsageError("an EAT signs a nonce and no file: --key NAME --format eat --fresh NONCE")
    if not token and args.file is None:
        raise UsageError("what is to be signed? FILE, or - for standard input")
    if args.key and args.fresh is not None and not token:
        raise UsageError("--fresh is for the agent's own key, and for --format eat")


def _key(args: argparse.Namespace) -> Key:
    return Key(args.key, args.namespace, args.generation)


def _options(args: argparse.Namespace) -> dict[str, str]:
    found = {"context": args.context, "audience": args.audience, "content_type": args.content_type}
    found |= {"format": args.format or "", "detached": "true" if args.detached else ""}
    return {name: value for name, value in found.items() if value}


def _challenge(payload: Iterator[bytes], nonce: str, context: str, audience: str) -> dict[str, Any]:
    return {"nonce": nonce, "payload": digest_document(payload), "context": context, "audience": audience}
