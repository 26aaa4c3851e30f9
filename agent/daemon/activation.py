"""The socket that a service manager opened for a role, if it did (sd_listen_fds(3)).

The manager's socket outlives us: it is neither locked nor removed here, and clients wait in it while we restart.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from agent.core.errors import ConfigError

FIRST = 3
"""Number of the first descriptor handed over (SD_LISTEN_FDS_START)."""
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def take(path: Path) -> socket.socket | None:
    """The listening stream socket at ``path``; None when none was handed to this process. Raises ConfigError."""
    pid, count, _ = (os.environ.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()):
        return None
    if count != "1":
        raise ConfigError(f"{path}: the service manager handed over {count or 'no'} sockets instead of one")
    os.set_inheritable(FIRST, False)
    try:
        sock = socket.socket(fileno=FIRST)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"{path}: what the service manager handed over is no socket: {error.strerror}") from error
    if (
        (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM)
        or not listens
        or sock.getsockname() != str(path)
    ):
        found = sock.getsockname()
        sock.close()
        raise ConfigError(
            f"the service manager listens at {found!r}, the configuration says {path}",
            hint="ListenStream= of the socket unit and daemon.runtime_dir must name one place",
        )
    return sock
