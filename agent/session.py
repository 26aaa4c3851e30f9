"""Puts the client of the attestation service together from the configuration."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from agent.core.config import Config, TasConfig
from agent.core.errors import ConfigError
from agent.core.ports import Transport
from agent.probe import endorsements_of, find_source
from agent.quoter import Quoter, Quotes, local_scope
from agent.settings import read_bounded
from agent.tas_client import TasClient
from agent.transport.stdlib import Peer, StdlibTransport
from agent.unseal import WrappingKey

MAX_KEY_FILE = 4096
MAX_CA_FILE = 256 * 1024
_API_KEY = re.compile(r"[!-~]{1,1024}", re.ASCII)
_BUILD_TIME = Path("/etc/tee-agent/build-time")


def open_tas(config: Config, *, quotes: Quotes | None = None, notice: Callable[[str], None] | None = None) -> TasClient:
    """A client for ``config.tas``; evidence from ``quotes``, or from this machine's own interface.

    ``notice`` gets what is worth telling (default: a line on stderr). Raises ConfigError, PlatformError.
    """
    tas = required(config)
    return TasClient(
        tas,
        open_transport(tas),
        quotes or local_quotes(config),
        endorsements_of,
        api_key=read_api_key(tas.api_key_file),
        new_key=WrappingKey,
        notice=notice or _to_stderr,
    )


def required(config: Config) -> TasConfig:
    """The service's section, or ConfigError where the configuration names no service."""
    if config.tas is None:
        raise ConfigError(f"{config.source}: no attestation service: there is no [tas] section", code="config.missing")
    return config.tas


def open_transport(tas: TasConfig) -> Transport:
    """The way to the service. Raises ConfigError for a CA file without the pinned authority."""
    authorities = b"" if tas.ca_file is None else read_bounded(tas.ca_file, MAX_CA_FILE)
    return StdlibTransport(Peer(tas.url, tas.pins, trusted_time, authorities, tas.connect_seconds))


def local_quotes(config: Config) -> Quoter:
    """Evidence from this machine's own interface. Raises PlatformError."""
    _, source = find_source(config.evidence)
    return Quoter(source, local_scope(config.daemon.audience))


def read_api_key(path: Path) -> str:
    """The client API key: an identifier, no secret (DESIGN.md, I7), but printable ASCII. Raises ConfigError."""
    return parse_api_key(read_bounded(path, MAX_KEY_FILE).decode("ascii", "replace"), str(path))


def parse_api_key(text: str, source: str) -> str:
    """``text`` without the white space around it; ``source`` names it in messages. Raises ConfigError."""
    key = text.strip()
    if not _API_KEY.fullmatch(key):
        raise ConfigError(f"{source}: an API key is one line of printable ASCII", code="config.value")
    return key


def trusted_time(build_time: Path = _BUILD_TIME) -> datetime:
    """The later of the clock and the time this image was built (seconds since 1970 in ``build_time``, if there).

    A clock that went back to 1970 can't make a new certificate look too young (DESIGN.md, I4).
    """
    now = datetime.now(UTC)
    try:
        built = datetime.fromtimestamp(int(read_bounded(build_time, 64)), UTC)
    except (ConfigError, ValueError, OverflowError, OSError):
        return now
    return max(now, built)


def _to_stderr(words: str) -> None:
    sys.stderr.write(f"tee-agent: warning: {words}\n")
