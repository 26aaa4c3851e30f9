"""The sockets that a service manager opened for a role, if it did (sd_listen_fds(3)).

The manager's sockets outlive us: they are neither locked nor removed here, and clients wait in them while we restart.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from agent.core.errors import ConfigError

FIRST = 3
"""Number of the first descriptor handed over (SD_LISTEN_FDS_START)."""
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def take(path: Path, *others: Path) -> dict[Path, socket.socket]:
    """The listening stream sockets that were handed to this process: at ``path``, and at any of ``others``.

    Nothing when none were. Raises ConfigError.
    """
    pid, count, _ = (os.environ.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()):
        return {}
    if count not in {str(number + 1) for number in range(1 + len(others))}:
        wanted = f"one to {1 + len(others)}" if others else "one"
        raise ConfigError(f"{path}: the service manager handed over {count or 'no'} sockets instead of {wanted}")
    found: dict[Path, socket.socket] = {}
    with ExitStack() as opened:
        for number in range(FIRST, FIRST + int(count)):
            _add(found, opened.enter_context(_socket(number, path)), (path, *others))
        _require(path, found)
        opened.pop_all()
    return found


def _socket(number: int, path: Path) -> socket.socket:
    try:
        os.set_inheritable(number, False)
        return socket.socket(fileno=number)
    except OSError as error:
        raise ConfigError(f"{path}: what the service manager handed over is no socket: {error.strerror}") from error


def _add(found: dict[Path, socket.socket], sock: socket.socket, paths: tuple[Path, ...]) -> None:
    name = sock.getsockname()
    named = {str(path): path for path in paths if path not in found}
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM) or not listens or name not in named:
        raise ConfigError(
            f"the service manager listens at {name!r}, the configuration says {' or '.join(map(str, paths))}",
            hint="ListenStream= of the socket units and daemon.runtime_dir must name one place",
        )
    found[named[name]] = sock


def _require(path: Path, found: Mapping[Path, object]) -> None:
    if path not in found:
        raise ConfigError(f"{path}: the service manager handed over another socket, and not this one")
