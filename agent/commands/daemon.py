"""tee-agent daemon: the running agent, all of it or one role."""

from __future__ import annotations

import argparse

from agent import settings
from agent.core.config import Config
from agent.core.model import Nonce
from agent.core.ports import Deadline, QuoteSource
from agent.daemon import fetcher, quoter, signer, supervisor
from agent.daemon.fetcher import Check
from agent.daemon.remote import RemoteQuoter
from agent.probe import endorsements_of, find_source
from agent.session import open_tas
from agent.verify.endorsements import load_folder

HELP = "Run the agent: signer, fetcher and quoter."
ROLES = (quoter.NAME, fetcher.NAME, signer.NAME)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", choices=ROLES, help="this role only, in this process (for a unit of its own)")
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    parser.epilog = """\
example:
  tee-agent daemon --config /etc/tee-agent/tee-agent.toml
  curl --unix-socket /run/tee-agent/agent.sock http://agent/v1/status
"""


def run(args: argparse.Namespace) -> int:
    config = settings.load(args.config)
    if args.role is None:
        return supervisor.run(config, args.config.absolute())
    if args.role == quoter.NAME:
        return quoter.run(config, lambda: _source(config), supervised=args.supervised)
    if args.role == fetcher.NAME:
        return fetcher.run(config, lambda: _check(config), supervised=args.supervised)
    endorse = signer.endorser(config.evidence.endorsements, endorsements_of, load_folder)
    return signer.run(config, endorse, supervised=args.supervised)


def _source(config: Config) -> QuoteSource:
    return find_source(config.evidence)[1]


def _check(config: Config) -> Check | None:
    if config.tas is None:
        return None
    client = open_tas(config, quotes=RemoteQuoter(config.daemon.runtime_dir / f"{quoter.NAME}.sock"))

    def check(deadline: Deadline) -> tuple[str, Nonce]:
        return client.version(deadline), client.nonce(deadline)

    return check
