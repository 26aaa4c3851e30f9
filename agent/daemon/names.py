"""The roles and their sockets in the runtime folder, by name: for those that talk to a role without being it."""

from __future__ import annotations

from pathlib import Path

QUOTER, FETCHER, SIGNER = "quoter", "fetcher", "signer"
ROLES = (QUOTER, FETCHER, SIGNER)
SOCKETS = {QUOTER: "quoter", FETCHER: "fetcher", SIGNER: "agent"}
"""Name of each role's socket, without ``.sock``; the signer's is the one for everybody."""
SSH = "ssh"
"""The signer's other socket, for ssh clients, where there is one."""


def socket_path(folder: Path, role: str) -> Path:
    """Where ``role`` listens."""
    return folder / f"{SOCKETS[role]}.sock"
