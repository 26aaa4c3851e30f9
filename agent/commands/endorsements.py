"""`tee-agent endorsements fetch | list | prune | note`: the vendor's statements that a verifier needs, in a folder."""

from __future__ import annotations

import argparse
import json
import os
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent import settings
from agent.admin import files
from agent.admin.evidence import NONCE_BYTES, collect
from agent.collateral.cache import Cache
from agent.collateral.fetch import PRODUCTS, Fetcher, Services
from agent.collateral.keeper import Outcome
from agent.core import checks
from agent.core.canonical import rfc3339
from agent.core.checks import At
from agent.core.config import Config
from agent.core.errors import ConfigError, UsageError
from agent.core.model import Evidence
from agent.core.vendorconfig import EndorsementsConfig
from agent.daemon import privileges
from agent.deadline import Deadline
from agent.verify import options
from agent.verify.endorsements import MAX_AUXBLOB
from agent.verify.evidence import MAX_BYTES, detect
from agent.verify.files import read_file
from agent.verify.inventory import Row, inventory

HELP = "Fetch, list and prune the vendor's certificates, CRLs and TCB information."
EVIDENCE_MODE = 0o644
MAX_AUTHORITIES = 1 << 20
"""Bytes of ca_file."""
_MISSING = {"verify": 65, "format": 65, "protocol": 76}
_TRY_LATER = 75
_EXAMPLE = """examples:
  tee-agent endorsements fetch                                  # for this machine
  tee-agent endorsements fetch --evidence quote.bin --out ./cache
  tee-agent endorsements fetch --renew --out /var/lib/tas-endorsements
  tee-agent endorsements list
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="fetch | list | prune | note", required=True)
    fetch = actions.add_parser("fetch", help="ask AMD's or Intel's service for what is missing or due")
    _what(fetch)
    _whom(fetch)
    listing = actions.add_parser("list", help="what the folder holds, and when it ends")
    prune = actions.add_parser("prune", help="remove what was neither confirmed nor used for long")
    prune.add_argument("--keep-days", type=int, metavar="N", help="default: keep_days of the configuration")
    for action in (fetch, listing, prune):
        action.add_argument("--out", type=Path, metavar="DIR", help="the folder (default: evidence.endorsements)")
    note = actions.add_parser("note", help="write this machine's evidence to a file, for a fetch by another user")
    note.add_argument("file", type=Path, metavar="FILE", help="written whole or not at all")
    for action in (fetch, note):
        action.add_argument("--scheduled", action="store_true", help="do nothing unless endorsements.fetch is true")


def _what(fetch: argparse.ArgumentParser) -> None:
    fetch.add_argument("--evidence", metavar="FILE", help="raw report or quote (default: evidence of this machine)")
    fetch.add_argument("--auxblob", metavar="FILE", help="SNP: the host's certificate table that came with it")
    fetch.add_argument(
        "--product", choices=PRODUCTS, default="", help="SNP: of a version 2 report, which does not say it"
    )
    fetch.add_argument("--renew", action="store_true", help="no evidence: renew what the folder has")
    fetch.add_argument("--early", action="store_true", help="TDX: Intel's early TCB information too")
    fetch.add_argument("--force", action="store_true", help="ask again also where nothing is due")


def _whom(fetch: argparse.ArgumentParser) -> None:
    fetch.add_argument("--kds-url", metavar="URL", help="AMD's key distribution service, or a mirror")
    fetch.add_argument("--pcs-url", "--pccs-url", metavar="URL", help="Intel's service, or a PCCS")
    fetch.add_argument("--proxy", metavar="URL", help="http://HOST:PORT that https goes through")
    fetch.add_argument("--ca-file", metavar="PEM", help="authorities believed there instead of the system's")
    fetch.add_argument("--seconds", type=float, metavar="S", help="for the whole run")
    fetch.add_argument(
        "--trust-root", action="append", default=[], metavar="PEM", help="also trust this root, not the vendors' only"
    )


def run(args: argparse.Namespace) -> int:
    """Returns the exit status; what fails altogether is raised."""
    actions: dict[str, Callable[[argparse.Namespace, Config], int]] = {
        "fetch": _fetch,
        "list": _list,
        "prune": _prune,
        "note": _note,
    }
    return actions[args.action](args, settings.load_or_defaults(args.config))


def _fetch(args: argparse.Namespace, config: Config) -> int:
    if _is_off(args, config):
        return 0
    if (args.renew and args.evidence) or (args.auxblob and not args.evidence):
        raise UsageError("--auxblob goes with --evidence, and --renew with neither")
    wanted = _endorsements(args, config.endorsements)
    anchors = options.anchors(args)
    evidence = None if args.renew else _evidence(args, config)
    folder = _folder(args, config)
    _become_owner(folder)
    if wanted.ca_file:
        _require_authorities(wanted.ca_file)
    cache = Cache(folder)
    fetcher = Fetcher(cache, Services.of(wanted), anchors, _now, early=args.early, force=args.force)
    deadline = Deadline(wanted.seconds, "endorsements")
    if evidence is None:
        outcomes = fetcher.renew(deadline)
    else:
        outcomes = fetcher.for_evidence(evidence.blob, evidence.auxblob, deadline, args.product)
    with cache.locked(deadline):
        pruned = cache.prune(timedelta(days=wanted.keep_days), _now())
    return _tell(args, folder, outcomes, pruned)


def _is_off(args: argparse.Namespace, config: Config) -> bool:
    """The timer runs everywhere; whether it may talk to the vendor is the configuration's word alone."""
    off = bool(args.scheduled) and not config.endorsements.fetch
    if off and not args.quiet:
        sys.stderr.write("tee-agent: endorsements.fetch is not set: nothing is fetched\n")
    return off


def _endorsements(args: argparse.Namespace, config: EndorsementsConfig) -> EndorsementsConfig:
    """The configuration with what the command line says instead. Raises UsageError."""
    given = {
        "kds_url": ("--kds-url", args.kds_url, checks.service_url),
        "pcs_url": ("--pcs-url", args.pcs_url, checks.service_url),
        "proxy": ("--proxy", args.proxy, checks.proxy_url),
        "seconds": ("--seconds", args.seconds, checks.seconds(1, 3600)),
        "ca_file": ("--ca-file", args.ca_file and str(Path(args.ca_file).absolute()), checks.path),
    }
    try:
        found: dict[str, Any] = {
            key: check(value, At("command line", option))
            for key, (option, value, check) in given.items()
            if value is not None
        }
    except ConfigError as error:
        raise UsageError(error.message, hint=error.hint) from error
    return replace(config, **found)


def _evidence(args: argparse.Namespace, config: Config) -> Evidence:
    if args.evidence:
        blob = read_file(args.evidence, MAX_BYTES)
        auxblob = read_file(args.auxblob, MAX_AUXBLOB) if args.auxblob else b""
        return Evidence(detect(blob), blob, auxblob)
    return collect(config, os.urandom(NONCE_BYTES), Deadline(config.evidence.quote_seconds, "evidence")).evidence


def _folder(args: argparse.Namespace, config: Config) -> Path:
    return (args.out or config.evidence.endorsements).absolute()


def _require_authorities(path: Path) -> None:
    """Said now, and not as a connection that failed. Raises ConfigError."""
    try:
        ssl.create_default_context(cadata=settings.read_bounded(path, MAX_AUTHORITIES).decode("ascii"))
    except (ValueError, ssl.SSLError) as error:
        raise ConfigError(f"{path}: not PEM certificates", hint="see ca_file in tee-agent.toml(5)") from error


def _become_owner(folder: Path) -> None:
    """As root in a folder of another user: that user for good, before the network or the folder is touched.

    So nothing that a stranger put into the folder is followed as root, and the next one can replace what is written.
    """
    try:
        owner = folder.stat()
    except OSError:
        return
    if os.geteuid() == 0 and owner.st_uid != 0:
        privileges.become(privileges.User(owner.st_uid, owner.st_gid))


def _tell(args: argparse.Namespace, folder: Path, outcomes: Sequence[Outcome], pruned: Sequence[str]) -> int:
    missing = [row for row in outcomes if row.action == "missing"]
    status = _status(missing)
    if args.json:
        rows = [asdict(row) | {"ends": rfc3339(row.ends) if row.ends else None} for row in outcomes]
        error = {"code": missing[0].code, "message": missing[0].problem} if missing else None
        facts = {"folder": str(folder), "complete": not missing, "outcomes": rows, "pruned": list(pruned)}
        _print(json.dumps(facts | {"error": error}, indent=2))
        return status
    if not args.quiet:
        lines = [_line(row) for row in outcomes] + [f"removed  {name}" for name in pruned]
        _print("\n".join([*lines, f"folder   {folder}"]))
    for row in missing:
        sys.stderr.write(f"tee-agent: {row.name}: {row.problem}\n  [{row.code}]\n")
    return status


def _status(missing: Sequence[Outcome]) -> int:
    """The first failure's; whether trying again helps is what it says."""
    if not missing:
        return 0
    return _MISSING.get(missing[0].code.partition(".")[0], _TRY_LATER)


def _line(row: Outcome) -> str:
    ends = f"  until {row.ends:%Y-%m-%d}" if row.ends else ""
    problem = f"  ({row.problem})" if row.action == "kept" else ""
    return f"{row.action:<8} {row.name}{ends}{problem}"


def _list(args: argparse.Namespace, config: Config) -> int:
    folder, at = _folder(args, config), _now()
    rows = inventory(folder)
    if args.json:
        _print(json.dumps({"folder": str(folder), "statements": [row.to_json(at) for row in rows]}, indent=2))
    elif not args.quiet:
        lines = [_row(row, at) for row in rows]
        _print("\n".join(lines or [f"{folder} holds nothing"]))
    return 0


def _row(row: Row, at: datetime) -> str:
    ends = f"{row.ends:%Y-%m-%d}" if row.ends else "-"
    return f"{row.state(at):<10} {row.kind:<11} {ends:<10} {row.about}  [{row.file}]"


def _prune(args: argparse.Namespace, config: Config) -> int:
    days = config.endorsements.keep_days if args.keep_days is None else args.keep_days
    if days < 0:
        raise UsageError("--keep-days is a number of days, 0 or more")
    folder = _folder(args, config)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    _become_owner(folder)
    cache = Cache(folder)
    with cache.locked(Deadline(config.endorsements.seconds, "endorsements")):
        removed = cache.prune(timedelta(days=days), _now())
    if args.json:
        _print(json.dumps({"folder": str(folder), "pruned": list(removed)}, indent=2))
    elif not args.quiet:
        _print("\n".join([*(f"removed  {name}" for name in removed), f"folder   {folder}"]))
    return 0


def _note(args: argparse.Namespace, config: Config) -> int:
    if _is_off(args, config):
        return 0
    args.evidence = None
    files.replace(args.file.absolute(), _evidence(args, config).blob, EVIDENCE_MODE)
    return 0


def _now() -> datetime:
    return datetime.now(UTC)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
