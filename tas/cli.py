"""The `tas` command: arguments, dispatch, exit status. Each command imports its own code when it runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import __version__
from agent.cli import report
from agent.core.errors import TeeAgentError, UsageError
from agent.hardening import harden
from tas.state import DEFAULT_STATE

_EXITS = (
    "exit status: 0 done, 64 usage, 65 bad data, 66 no such policy or secret, 73 conflict, 75 try later,\n"
    "78 configuration or state; see tas(8)"
)


@dataclass(frozen=True, slots=True)
class Option:
    """One argument of a command: ``names`` and the keywords of argparse's add_argument."""

    names: tuple[str, ...]
    keywords: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """``run`` is ``module:function``, called with the parsed arguments; returns an exit status."""

    words: str
    help: str
    run: str
    example: str
    options: tuple[Option, ...] = ()


def _option(*names: str, **keywords: Any) -> Option:
    return Option(names, keywords)


_NAME = _option("--name", action="append", default=[], metavar="NAME", help="DNS name or address of this service")
_SIGNED = (
    _option(
        *("--policy-trust",),
        action="append",
        type=Path,
        default=[],
        metavar="PEM|DIR",
        help="keys that policies must be signed by: public keys or certificates",
    ),
    _option(
        *("--require-signed-policies",),
        action="store_true",
        help="refuse to go on when no --policy-trust says whose signatures",
    ),
)
_KEY_ID = _option("key_id", metavar="KEY_ID", help="1 to 128 of A-Z a-z 0-9 _ . -")
_POLICY_ID = _option("policy_id", metavar="POLICY_ID", help="as in the policy's metadata")

COMMANDS = (
    Command(
        "init",
        "Make the state directory: TLS key and certificate, client API key. Shows the pin for the agents.",
        "tas.admin:init",
        "tas init --state /var/lib/tas --name tas.example.org",
        (_NAME,),
    ),
    Command(
        "serve",
        "Serve nonces and secrets over TLS until told to stop.",
        "tas.serve:main",
        "tas serve --listen 0.0.0.0:8443 --endorsements /var/lib/tas-endorsements",
        (
            _option("--listen", default="127.0.0.1:8443", metavar="HOST:PORT", help="default: %(default)s"),
            _option("--endorsements", type=Path, metavar="DIR", help="certificates, CRLs and TDX collateral"),
            _option(
                *("--trust-root",),
                action="append",
                type=Path,
                default=[],
                metavar="PEM",
                help="accept another root than the vendors'; decisions under it are marked",
            ),
            _option(
                *("--allow-unchecked-revocation",),
                action="store_true",
                help="release secrets to evidence whose revocation no CRL can tell",
            ),
            *_SIGNED,
            _NAME,
            _option("--rate-limit", type=int, default=200, metavar="N", help="a minute, client and route; 0: none"),
            _option("--read-seconds", type=float, default=15.0, metavar="S", help="to send a request; default: 15"),
            _option("--ready-fd", type=int, metavar="FD", help="write one line, URL and pin, there when serving"),
        ),
    ),
    Command(
        "secret create",
        "Make a secret of random bytes. It is never shown.",
        "tas.admin:secret_create",
        "tas secret create root-disk",
        (_KEY_ID, _option("--bytes", type=int, default=32, metavar="N", help="32 to 1024; default: 32")),
    ),
    Command("secret list", "List the secrets' names and sizes.", "tas.admin:secret_list", "tas secret list --json"),
    Command(
        "secret delete",
        "Delete a secret for ever. What it opened stays closed.",
        "tas.admin:secret_delete",
        "tas secret delete old-disk --yes",
        (_KEY_ID, _option("--yes", action="store_true", help="required: there is no way back")),
    ),
    Command(
        "policy put",
        "Store a policy. One that does not pin the workload is refused.",
        "tas.admin:policy_put",
        "tas policy put web.json --replace",
        (
            _option("file", metavar="FILE", help="JSON; - reads standard input"),
            _option("--replace", action="store_true", help="put it in the place of one with the same id"),
            *_SIGNED,
        ),
    ),
    Command(
        "policy sign",
        "Print a policy with a signature (RSA-PSS, SHA-384) in the place of the one it has.",
        "tas.admin:policy_sign",
        "tas policy sign web.json --key policy-key.pem",
        (
            _option("file", metavar="FILE", help="JSON; - reads standard input"),
            _option("--key", type=Path, required=True, metavar="PEM", help="file of an RSA private key, no passphrase"),
        ),
    ),
    Command("policy list", "List the policies.", "tas.admin:policy_list", "tas policy list"),
    Command("policy show", "Print a policy as stored.", "tas.admin:policy_show", "tas policy show web", (_POLICY_ID,)),
    Command("policy delete", "Delete a policy.", "tas.admin:policy_delete", "tas policy delete web", (_POLICY_ID,)),
    Command(
        "audit heads",
        "List the heads of agents' audit logs that came with their keys, and what contradicts what.",
        "tas.auditheads:heads",
        "tas audit heads --alerts",
        (
            _option("--boot-id", default="", metavar="ID", help="of one boot only"),
            _option("--machine", default="", metavar="ID", help="of one machine only, as --json names it"),
            _option("--alerts", action="store_true", help="only those that contradict an earlier one"),
        ),
    ),
    Command(
        "check",
        "Show roots (added ones marked), policies, secrets, TLS pin, and what is wrong.",
        "tas.check:check",
        "tas check --state /var/lib/tas",
    ),
)
GROUPS = {
    "secret": "Make, list and delete secrets.",
    "policy": "Put, sign, list, show and delete policies.",
    "audit": "What agents' audit logs are held against.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status."""
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:
        return UsageError.exit_status if stop.code else 0
    harden(lock_memory=False)
    try:
        module, _, function = args.run.partition(":")
        status: int = getattr(importlib.import_module(module), function)(args)
        sys.stdout.flush()
    except TeeAgentError as error:
        return report(error, as_json=args.json, program="tas")
    except BrokenPipeError:
        # The reader of our output left (head, less): nothing more can be said, and nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tas", description="TEE attestation service: secrets for proven guests.", epilog=_EXITS, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"tas {__version__}")
    top = parser.add_subparsers(metavar="COMMAND", required=True)
    places = {"": top}
    for name, text in GROUPS.items():
        group = top.add_parser(name, help=text, description=text, allow_abbrev=False)
        places[name] = group.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        group_name, _, last = command.words.rpartition(" ")
        child = places[group_name].add_parser(
            last,
            help=command.help,
            description=command.help,
            epilog=f"example:\n  {command.example}\n\n{_EXITS}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _fill(child, command)
    return parser


def _fill(parser: argparse.ArgumentParser, command: Command) -> None:
    for option in command.options:
        parser.add_argument(*option.names, **option.keywords)
    group = parser.add_argument_group("common options")
    group.add_argument("--state", type=Path, default=DEFAULT_STATE, metavar="DIR", help="default: %(default)s")
    group.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=command.run)


if __name__ == "__main__":
    sys.exit(main())
