"""The `[daemon]` table of the configuration: the running agent, its users and its bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core import checks
from agent.core.checks import At


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """The running agent. Users and groups are names or decimal ids."""

    runtime_dir: Path = Path("/run/tee-agent")
    allow_groups: tuple[str, ...] = ("tee-agent",)
    allow_users: tuple[str, ...] = ()
    signer_user: str = "tee-agent"
    fetcher_user: str = "tee-agent-fetcher"
    audience: str = ""
    key_lifetime_seconds: int = 86_400
    challenge_batch_max: int = 10_000
    keys_max: int = 256
    keys_each_max: int = 32
    keys_folder: Path = Path("/var/lib/tee-agent/keys")
    ssh_socket: bool = False


ROWS: Mapping[str, tuple[Callable[[Any, At], Any], str]] = {
    "runtime_dir": (checks.path, "folder of the sockets"),
    "allow_groups": (checks.several(checks.account, least=0, most=64), "groups that may use the socket"),
    "allow_users": (checks.several(checks.account, least=0, most=64), "users that may use the socket"),
    "signer_user": (checks.account, "user that holds the keys"),
    "fetcher_user": (checks.account, "user that talks to the network"),
    "audience": (checks.text(256), "whom this machine's evidence is for"),
    "key_lifetime_seconds": (checks.integer(60, 86_400), "of a signing key"),
    "challenge_batch_max": (checks.integer(1, 65_536), "challenges that share one piece of evidence"),
    "keys_max": (checks.integer(0, 4096), "named keys of all callers together, rotated ones included"),
    "keys_each_max": (checks.integer(0, 4096), "named keys in one namespace"),
    "keys_folder": (checks.path, "folder of persistent keys, each sealed; the signer's user's alone"),
    "ssh_socket": (
        checks.boolean,
        "serve keys for ssh to ssh clients, at `ssh.sock`; with the units, tee-agent-ssh.socket does that",
    ),
}
