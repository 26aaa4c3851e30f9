"""Command line: dispatch, and the one place where an error becomes an exit status.

Commands are modules of agent/commands, imported when named: early boot and `status` pay for nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from agent import __version__
from agent.core.canonical import printable, shown
from agent.core.errors import TeeAgentError, UsageError

DEFAULT_CONFIG = Path("/etc/tee-agent/tee-agent.toml")

COMMANDS = {
    "setup": "Write the configuration: the service, its pinned key, the volumes.",
    "config": "Check the configuration against this machine, or show it with its defaults.",
    "policy": "Draft a policy for this machine, predict the next boot, tighten after it.",
    "preflight": "Will this machine boot unattended? Tries all of it but opening.",
    "status": "Show on one screen whether this machine can attest, unlock and sign.",
    "sign": "Have files signed by the attested key, or by a named one; prints a bundle.",
    "challenge": "Answer a relying party's nonce with evidence made now.",
    "keys": "Make, list, rotate, destroy and attest keys that never leave the agent.",
    "seal": "Seal a file to this TEE: tee-agent unseal opens it again.",
    "unseal": "Open what tee-agent seal made.",
    "secret": "Get a secret from the attestation service, where the policies permit.",
    "verify": "Verify a bundle, a key, a JWS, COSE_Sign1, EAT or ssh signature, offline.",
    "evidence": "Collect, show or verify evidence: SNP reports, TDX quotes.",
    "eventlog": "Show a TDX guest's event log, replay it against RTMRs, extend an RTMR.",
    "endorsements": "Fetch, list and prune the vendor's certificates, CRLs and TCB information.",
    "disk": "Bind, test, list, unlock and unbind LUKS2 volumes.",
    "audit": "Verify the audit log's chain, or show its newest records.",
    "daemon": "Run the agent: signer, fetcher and quoter.",
}
"""Name and the module's own HELP, kept here so that --help imports nothing; a test compares them."""

_EXITS = (
    "exit status: 0 done, 64 usage, 65 bad data, 69 no TEE, 75 try later, 77 denied, 78 configuration; see the manual"
)
_USAGE = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return 0 if arguments else _USAGE
    if arguments[0] == "--version":
        sys.stdout.write(f"tee-agent {__version__}\n")
        return 0
    as_json = "--json" in arguments
    if arguments[0] not in COMMANDS:
        return report(UsageError(f"no command {shown(arguments[0])}", hint="see tee-agent --help"), as_json=as_json)
    try:
        return _command(arguments[0], arguments[1:])
    except TeeAgentError as error:
        return report(error, as_json=as_json)


def report(error: TeeAgentError, *, as_json: bool, program: str = "tee-agent") -> int:
    """Print an error, for people on stderr or as JSON on stdout. Returns its exit status."""
    if as_json:
        document = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        hint = f"  {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"{program}: {printable(error.message)}\n{hint}  [{error.code}]\n")
    return error.exit_status


class Parser(argparse.ArgumentParser):
    """Whose errors are printed like all others, and with --json as all others. Sub-parsers are of this class too."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(message, hint=f"see {self.prog} --help")


def common_options(program: str = "tee-agent") -> argparse.ArgumentParser:
    """Options that every command has, before or after its sub-command."""
    parser = Parser(prog=program, add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("common options")
    group.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
    group.add_argument("--json", action="store_true", help="one JSON document on stdout")
    group.add_argument("--quiet", action="store_true", help="print nothing on success")
    return parser


def _overview() -> str:
    lines = [f"  {name:<9} {text}" for name, text in COMMANDS.items()]
    head = ["usage: tee-agent COMMAND [OPTION...]", ""]
    return "\n".join([*head, *lines, "", "tee-agent COMMAND --help tells more.", _EXITS, ""])


def _command(name: str, arguments: Sequence[str]) -> int:
    module = importlib.import_module(f"agent.commands.{name}")
    common = common_options(f"tee-agent {name}")
    parser = Parser(
        prog=f"tee-agent {name}",
        description=module.HELP,
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    parser.epilog = "\n".join(part for part in (parser.epilog, _EXITS) if part)
    # Taken out first, so that they may also stand behind a sub-command.
    args, rest = common.parse_known_args(arguments)
    flags = vars(args).copy()
    try:
        args = parser.parse_args(rest)
    except SystemExit:  # --help
        return 0
    vars(args).update(flags)
    try:
        status: int = module.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output left (head, less): nothing more can be said, and nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
