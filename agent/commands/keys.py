"""tee-agent keys: named keys of the running agent, which never leave it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from agent.client import Client, Key
from agent.commandio import client_of, output_option, socket_option, write
from agent.core.algorithm import ALGORITHMS, ED25519
from agent.core.canonical import printable
from agent.core.errors import UsageError
from agent.deadline import Deadline

HELP = "Make, list, rotate, destroy and attest keys that never leave the agent."
SECONDS = 120.0
USES = ("bundle", "raw", "jws", "cose", "eat", "ssh")


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = _action(actions, "create", "make a key in the caller's namespace")
    create.add_argument("--use", required=True, choices=USES, help="the one thing that it will ever sign")
    create.add_argument("--algorithm", choices=ALGORITHMS, default=ED25519, help="default: %(default)s")
    create.add_argument("--lifetime", type=int, metavar="SECONDS", help="of each generation; default: without end")
    create.add_argument("--persistent", action="store_true", help="kept on the disk, sealed (default: in memory)")
    listing = actions.add_parser("list", help="the agent's own key and those that the caller may see")
    socket_option(listing)
    _generation(_action(actions, "show", "one key, with its statement"))
    rotate = _action(actions, "rotate", "a new private key under the same name")
    rotate.add_argument("--overlap", type=int, metavar="SECONDS", help="for the old one to go on; default: 3600")
    _action(actions, "destroy", "all generations, for good")
    attest = _action(actions, "attest", "the key's document for relying parties, with its evidence")
    _generation(attest)
    output_option(attest)
    public = _action(actions, "ssh", "the public key of a key for ssh, as authorized_keys has it")
    _generation(public)
    output_option(public)
    parser.epilog = """\
example:
  tee-agent keys create invoices --use jws --algorithm ECDSA-P256 --persistent
  tee-agent keys attest invoices -o invoices.key
  tee-agent keys ssh deploy -o deploy.pub
  tee-agent sign --key invoices invoice.json -o invoice.jws
"""


def _action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text)
    parser.add_argument("name", metavar="NAME", help="a-z, 0-9, dot, dash, underscore; at most 63")
    parser.add_argument("--namespace", default="", help="whose keys; default: the caller's own")
    socket_option(parser)
    return parser


def _generation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--generation", type=int, default=0, metavar="N", help="an older one; default: the newest")


def run(args: argparse.Namespace) -> int:
    client = client_of(args)
    deadline = Deadline(SECONDS, "key")
    if args.action == "list":
        _show(args, client.keys(deadline), _table)
    elif args.action == "attest":
        write(client.attestation(Key(args.name, args.namespace, args.generation), deadline), args.output)
    elif args.action == "ssh":
        write(_public(client.key(Key(args.name, args.namespace, args.generation), deadline)), args.output)
    else:
        _show(args, *_one(args, client, deadline))
    return 0


def _public(key: Mapping[str, Any]) -> bytes:
    if "ssh" not in key:
        raise UsageError(
            f"the key is for {printable(str(key.get('use')))}, and ssh has no use for it",
            hint="make another: tee-agent keys create NAME --use ssh",
            code="usage.key-use",
        )
    return f"{printable(str(key['ssh']))}\n".encode()


Shown = Callable[[Mapping[str, Any]], str]


def _one(args: argparse.Namespace, client: Client, deadline: Deadline) -> tuple[Mapping[str, Any], Shown]:
    which = Key(args.name, args.namespace, getattr(args, "generation", 0))
    if args.action == "create":
        document = {"name": args.name, "use": args.use, "algorithm": args.algorithm, "namespace": args.namespace}
        document |= {"lifetime_seconds": args.lifetime, "persistent": args.persistent}
        return client.create_key(document, deadline), _line
    if args.action == "rotate":
        return client.rotate_key(which, args.overlap, deadline), _line
    if args.action == "destroy":
        return client.destroy_key(which, deadline), lambda found: f"destroyed {found.get('destroyed')}\n"
    return client.key(which, deadline), _details


def _show(args: argparse.Namespace, found: Mapping[str, Any], text: Shown) -> None:
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    elif not args.quiet:
        sys.stdout.write("".join(f"{printable(line)}\n" for line in text(found).splitlines()))


def _table(found: Mapping[str, Any]) -> str:
    keys = [key for key in found.get("keys", []) if isinstance(key, dict)]
    return "".join(map(_line, keys))


def _line(key: Mapping[str, Any]) -> str:
    if "name" not in key:
        return f"agent {key['algorithm']} {key['use']} {key['id']} {key['storage']}\n"
    name = f"{key['namespace']}/{key['name']}"
    if "state" in key:
        return f"{name} persistent, {key['state']}: {key['reason']}\n"
    until = key["ends"] or ("it is destroyed" if key["persistent"] else "the agent stops")
    return f"{name}#{key['generation']} {key['algorithm']} {key['use']} {key['id']} {key['storage']} until {until}\n"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return "none" if value is None else str(value)


def _details(key: Mapping[str, Any]) -> str:
    rows = [_line(key)]
    rows += [f"  {name}: {_value(value)}\n" for name, value in key["statement"].items()]
    rows += [f"  evidence: {key['evidence']['tee']}, made at {key['evidence']['at']}\n", f"  spki: {key['spki']}\n"]
    return "".join(rows)
