"""tee-agent sign: signatures over files by the running agent, bundles where nothing else is asked for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.client import ANYTHING, Client, Key
from agent.commandio import chunks, client_of, digest_document, nonce_hex, output_option, socket_option, write
from agent.core import canonical, compact
from agent.core.errors import ProtocolError, UsageError
from agent.deadline import Deadline

HELP = "Have files signed by the attested key, or by a named one; prints a bundle."
SIGN_SECONDS = 900.0
FORMATS = ("bundle", "raw", "jws", "cose", "eat", "ssh")
FORMS = ("json", "cbor")
BATCH = 1000
"""Files in one request."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="*", help="what to sign; - for standard input")
    parser.add_argument("--context", default="", metavar="TEXT", help="what the signature is for; verify --context")
    parser.add_argument("--audience", default="", metavar="TEXT", help="whom it is for; verify --audience")
    parser.add_argument("--fresh", action="store_true", help="with evidence made now; takes one or two quotes")
    parser.add_argument("--nonce", metavar="HEX", help="a relying party's, 16 to 64 bytes: for --fresh, or an EAT")
    parser.add_argument("--compact", action="store_true", help="a bundle that names its attachments by their digest")
    parser.add_argument("--attachments-to", metavar="OUT", help="write the attachments of a compact bundle here")
    parser.add_argument("--into", metavar="FOLDER", help="many files: compact bundles and attachments, written here")
    _key_options(parser.add_argument_group("with a named key"))
    output_option(parser)
    socket_option(parser)
    parser.epilog = """\
examples:
  tee-agent sign report.pdf --context invoices -o report.bundle
  tee-agent sign --key invoices invoice.json -o invoice.jws
  tee-agent sign report.pdf --fresh --nonce "$NONCE" -o report.bundle
  tee-agent sign dist/*.deb --context release --into signatures
  tee-agent verify report.bundle --payload report.pdf --context invoices --policy policy.json
"""


def run(args: argparse.Namespace) -> int:
    nonce = "" if args.nonce is None else nonce_hex(args.nonce, "--nonce")
    _require_sense(args)
    client = client_of(args)
    deadline = Deadline(SIGN_SECONDS, "signature")
    if args.into is not None:
        _sign_many(args, client, deadline)
        return 0
    made = _sign(args, client, nonce, deadline)
    if args.attachments_to:
        write(client.attachments(compact.decode(made).attachments, deadline), args.attachments_to)
    write(made, args.output)
    return 0


def _sign(args: argparse.Namespace, client: Client, nonce: str, deadline: Deadline) -> bytes:
    accept = compact.MEDIA_TYPE if args.compact else ANYTHING
    if args.format == "eat":
        return client.token(_key(args), {"nonce": nonce, "form": args.form or FORMS[0]}, _options(args), deadline)
    payload = chunks(args.files[0])
    if args.fresh:
        options = _options(args) | ({"nonce": nonce} if nonce else {})
        which = _key(args) if args.key else None
        return client.sign_fresh(which, digest_document(payload), options, deadline, accept)
    if args.key:
        return client.sign_with(_key(args), payload, _options(args), deadline, accept)
    return client.sign(payload, context=args.context, audience=args.audience, deadline=deadline, accept=accept)


def _sign_many(args: argparse.Namespace, client: Client, deadline: Deadline) -> None:
    """NAME.compact for each file, and DIGEST.attachments for what they have in common."""
    folder, which = Path(args.into), _key(args) if args.key else None
    for start in range(0, len(args.files), BATCH):
        files = args.files[start : start + BATCH]
        items = [{"digest": digest_document(chunks(file))} for file in files]
        answer = client.batch(which, items, _options(args), deadline)
        digest, made = _compact_bundles(answer, len(items))
        write(client.attachments(digest, deadline), str(folder / f"{digest.hex()}.attachments"))
        for file, data in zip(files, made, strict=True):
            write(data, str(folder / f"{Path(file).name}.compact"))


def _compact_bundles(answer: dict[str, Any], count: int) -> tuple[bytes, Sequence[bytes]]:
    """The attachments' digest and as many bundles, in their canonical bytes. Raises ProtocolError, FormatError."""
    signatures = answer.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != count:
        raise ProtocolError(f"the agent did not answer with {count} signatures")
    made = [canonical.encode(one) for one in signatures]
    digests = {compact.decode(data).attachments for data in made}
    if len(digests) != 1:
        raise ProtocolError("the signatures of one batch have different attachments")
    return digests.pop(), made


def _key_options(group: Any) -> None:
    group.add_argument("--key", metavar="NAME", default="", help="sign with this key (tee-agent keys)")
    group.add_argument("--namespace", default="", help="whose key it is; default: the caller's own")
    group.add_argument("--generation", type=int, default=0, metavar="N", help="an older one; default: the newest")
    group.add_argument("--format", choices=FORMATS, help="what you expect; the key's use decides, others are refused")
    group.add_argument("--form", choices=FORMS, help=f"of an EAT; default: {FORMS[0]}")
    group.add_argument("--content-type", default="", metavar="TYPE", help="of the payload, in a COSE_Sign1")
    group.add_argument("--detached", action="store_true", help="leave the payload out of a COSE_Sign1")


def _require_sense(args: argparse.Namespace) -> None:
    token, count = args.format == "eat", len(args.files)
    if not args.key and (args.format not in (None, "bundle") or args.namespace or args.generation):
        raise UsageError("--format, --namespace and --generation are about a named key: --key NAME")
    if not args.key and (args.content_type or args.detached):
        raise UsageError("--content-type and --detached are about a key for cose: --key NAME")
    if args.form and not token:
        raise UsageError("--form is that of an EAT: --key NAME --format eat --nonce HEX")
    if token and (count or args.nonce is None):
        raise UsageError("an EAT signs a nonce and no file: --key NAME --format eat --nonce HEX")
    if not token and not count:
        raise UsageError("what is to be signed? FILE, or - for standard input")
    if args.fresh and args.format not in (None, "bundle"):
        raise UsageError(f"--fresh is about bundles, not --format {args.format}")
    if args.nonce is not None and not (args.fresh or token):
        raise UsageError("--nonce goes with --fresh, or with --format eat")
    if args.compact and args.format not in (None, "bundle"):
        raise UsageError(f"--compact is about bundles, not --format {args.format}")
    if args.attachments_to and not args.compact:
        raise UsageError("--attachments-to is about a compact bundle: --compact")
    _require_folder(args)


def _require_folder(args: argparse.Namespace) -> None:
    if args.into is None:
        if len(args.files) > 1:
            raise UsageError("several files are signed into a folder: --into FOLDER")
        return
    if args.fresh or args.attachments_to or args.format not in (None, "bundle"):
        raise UsageError("--into is for compact bundles: not with --fresh, --attachments-to or another --format")
    if not Path(args.into).is_dir():
        raise UsageError(f"--into: {args.into}: there is no such folder", hint="make it first", code="usage.output")
    names = [Path(file).name for file in args.files]
    if len(set(names)) != len(names) or "" in names or "-" in names:
        raise UsageError("--into names signatures after their files: each needs a name of its own")


def _key(args: argparse.Namespace) -> Key:
    return Key(args.key, args.namespace, args.generation)


def _options(args: argparse.Namespace) -> dict[str, str]:
    found = {"context": args.context, "audience": args.audience, "content_type": args.content_type}
    # --into makes bundles: a key for something else is refused by its use.
    wanted = args.format or ("bundle" if args.into else "")
    found |= {"format": wanted if args.key else "", "detached": "true" if args.detached else ""}
    return {name: value for name, value in found.items() if value}
