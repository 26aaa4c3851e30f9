"""The sockets of the runtime folder: one owner each, stale ones replaced safely, nobody else able to swap them.

A lock file beside each socket says whether its owner lives; only who holds the lock removes the socket that was
left, and only if nobody listens behind it, for a service manager's socket has no lock (agent.daemon.activation).
Sockets are 0666: who may speak is decided by what the kernel says of the peer (agent.daemon.peers), so that a
member of a supplementary group gets in and others get a clear answer instead of EACCES.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import ConfigError, Conflict, PermissionMissing
from agent.daemon import activation

BACKLOG = 1024
"""Connections that may wait to be accepted: a client with a timeout gets EAGAIN beyond, not patience."""
SOCKET_MODE = 0o666
DIRECTORY_MODE = 0o755
MAX_PATH = 107
"""Bytes of a Unix socket's path (unix(7): 108 with the final zero)."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound, listening socket and the lock that makes it ours as long as the process lives (-1: handed to us)."""

    sock: socket.socket
    lock: int
    path: Path


def prepare(folder: Path) -> None:
    """The runtime folder: made 0755 where missing; refused when others could swap what is in it. Raises ConfigError."""
    try:
        folder.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ConfigError(f"daemon.runtime_dir: {folder}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise ConfigError(
            f"daemon.runtime_dir: {folder} is not a folder that only its owner may write",
            hint=f"chown root {folder}; chmod 755 {folder}",
            code="config.unsafe",
        )


def listen(folder: Path, name: str) -> Listener:
    """``folder/name.sock``, listening: the service manager's if it handed one over, else made here.

    Raises Conflict when its owner lives, ConfigError, PermissionMissing.
    """
    prepare(folder)
    path = folder / f"{name}.sock"
    return _listener(path, activation.take(path).get(path))


def listen_with(folder: Path, name: str, more: str, *, wanted: bool) -> tuple[Listener, Listener | None]:
    """The same, and ``folder/more.sock`` where it is ``wanted`` or the service manager hands it over."""
    prepare(folder)
    path, beside = folder / f"{name}.sock", folder / f"{more}.sock"
    handed = activation.take(path, beside)
    first = _listener(path, handed.get(path))
    return first, _listener(beside, handed.get(beside)) if wanted or beside in handed else None


def _listener(path: Path, handed: socket.socket | None) -> Listener:
    if handed:
        return Listener(handed, -1, path)
    if len(os.fsencode(path)) > MAX_PATH:
        raise ConfigError(f"daemon.runtime_dir: {path} is longer than {MAX_PATH} bytes")
    lock = _lock(path.with_suffix(".lock"), path)
    try:
        return Listener(_bound(path), lock, path)
    except BaseException:
        os.close(lock)
        raise


def _bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(str(path))
        path.chmod(SOCKET_MODE)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise PermissionMissing(f"{path}: can't listen there: {error.strerror}") from error
    except Conflict:
        sock.close()
        raise
    return sock


def remove(folder: Path, name: str) -> None:
    """Unlink ``folder/name.sock`` unless somebody lives behind it. Raises nothing."""
    if not (folder / f"{name}.sock").is_socket():
        return
    try:
        lock = _lock(folder / f"{name}.lock", folder / f"{name}.sock")
    except (Conflict, PermissionMissing):
        return
    try:
        _remove_stale(folder / f"{name}.sock")
    except (OSError, Conflict):
        return
    finally:
        os.close(lock)


def _lock(path: Path, what: Path) -> int:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise PermissionMissing(
            f"{path}: {error.strerror}",
            hint=f"start the daemon as root, or by the units: that for {what.name} must be enabled",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise _served(what) from error
    return lock


def _served(path: Path) -> Conflict:
    return Conflict(
        f"{path} is served already",
        hint="another tee-agent daemon runs: stop it first (systemctl stop tee-agent.target)",
        code="conflict.running",
    )


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"{path} is in the way and is not a socket", hint="remove it")
    if _answers(path):
        raise _served(path)
    path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except OSError as error:
            # Anything else, such as a full queue, is somebody's.
            return error.errno not in (errno.ECONNREFUSED, errno.EPROTOTYPE, errno.ENOENT)
    return True
