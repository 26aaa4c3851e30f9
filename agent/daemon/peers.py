"""Who is at the other end of a Unix socket, as the kernel tells it, and whether it may speak (DESIGN.md, I8).

uid, gid and supplementary groups are those of the moment of connect() (SO_PEERCRED, SO_PEERGROUPS). The process is
held by a pidfd, so a number that the kernel hands out again can't pass for it. The systemd unit is the first unit
in the cgroup path: what comes behind it may be made by the unit itself. A container counts only where its runtime
made that first unit, or a cgroup at the root of the tree, which is root's (agent.daemon.cgroup). The *connection* is
authorised; a peer that has exited is refused. What the process runs is not looked at: exec after connect would make
that a lie.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from agent.core.accessrule import HIDDEN
from agent.core.errors import Denied
from agent.daemon.cgroup import container_of, unit_of

SO_PEERGROUPS = 59
SO_PEERPIDFD = 77
"""Linux 6.5 (include/uapi/asm-generic/socket.h); not named by Python 3.11."""
MAX_GROUPS = 256
"""Supplementary groups that are read; of a peer with more, none counts."""
_CGROUP_BYTES = 8192
_MAX_PID = 1 << 31


@dataclass(frozen=True, slots=True)
class Caller:
    """The peer's identity. ``unit`` is "" outside systemd's units, ``container`` outside containers. HIDDEN as the
    unit: neither is known, and rules that deny by them do.

    ``groups_unknown``: there are more than MAX_GROUPS supplementary ones; none counts, and rules that deny a group do.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]
    unit: str
    container: str = ""
    groups_unknown: bool = False

    def document(self) -> dict[str, Any]:
        """What a challenge's leaf and a status say about it: no pid, which means nothing to anybody else."""
        return {"uid": self.uid, "gid": self.gid, "groups": list(self.groups), "unit": self.unit}


@dataclass(frozen=True, slots=True)
class Allowed:
    """Default deny: root, these users, and members of these groups, primary or supplementary."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def permits(self, caller: Caller) -> bool:
        in_group = caller.gid in self.gids or not self.gids.isdisjoint(caller.groups)
        return caller.uid == 0 or caller.uid in self.uids or in_group


class Peer:
    """One identified peer. Owns a pidfd: close it, or use it as a context manager."""

    def __init__(self, caller: Caller, pidfd: int) -> None:
        self.caller = caller
        self._pidfd = pidfd
        self._poll = select.poll()
        self._poll.register(pidfd, select.POLLIN)

    def alive(self) -> bool:
        """False once the process has exited, reaped or not."""
        return self._pidfd >= 0 and not self._poll.poll(0)

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def identify(sock: socket.socket, proc: Path = Path("/proc")) -> Peer:
    """The peer of a connected Unix socket. Raises Denied when the kernel can't name it or it has exited."""
    pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if pid <= 0:
        raise Denied("the caller is not visible in this pid namespace", code="denied.peer")
    pidfd = _pidfd(sock, pid, uid, proc)
    try:
        peer = Peer(_caller(pid, uid, gid, _groups(sock), proc), pidfd)
    except BaseException:
        os.close(pidfd)
        raise
    # Asked after /proc was read: as long as the process lives, its number belongs to nobody else.
    if not peer.alive():
        peer.close()
        raise _exited()
    return peer


def of_process(pid: int, proc: Path) -> Caller:
    """A process as it would be seen if it connected now. Raises Denied when there is none."""
    if not 0 < pid < _MAX_PID:
        raise Denied(f"{pid} is no process", code="denied.peer")
    with Peer(Caller(pid, -1, -1, (), ""), pidfd_by_start_time(pid, proc)) as held:
        words = _status(proc / str(pid) / "status")
        groups = tuple(map(int, words["Groups"]))
        kept = groups if len(groups) <= MAX_GROUPS else None
        caller = _caller(pid, int(words["Uid"][1]), int(words["Gid"][1]), kept, proc)
        if not held.alive():
            raise _exited()
        return caller


def _status(path: Path) -> dict[str, list[str]]:
    """Fields of proc(5) status; of Uid and Gid the second number is the effective one."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise _exited() from error
    rows = (line.partition(":") for line in text.splitlines())
    return {name: value.split() for name, _, value in rows if name in ("Uid", "Gid", "Groups")}


def _exited() -> Denied:
    return Denied("the caller has exited", hint="keep the connecting process alive", code="denied.peer")


def _pidfd(sock: socket.socket, pid: int, uid: int, proc: Path) -> int:
    try:
        pidfd: int = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return _pidfd_of_user(pid, uid, proc)
        raise _exited() from error
    os.set_inheritable(pidfd, False)
    return pidfd


def _pidfd_of_user(pid: int, uid: int, proc: Path) -> int:
    """Below Linux 6.5 the number may be another process's since connect(): at least it must be the same user's."""
    pidfd = pidfd_by_start_time(pid, proc)
    if _effective_user(proc / str(pid) / "status") != uid:
        os.close(pidfd)
        raise _exited()
    return pidfd


def _effective_user(status: Path) -> int | None:
    try:
        return int(_status(status)["Uid"][1])
    except Denied:
        return None


def pidfd_by_start_time(pid: int, proc: Path, opener: Callable[[int], int] = os.pidfd_open) -> int:
    """Below Linux 6.5: a pidfd, with the process's start time the same before and after. Raises Denied."""
    before = _start_time(proc / str(pid) / "stat")
    try:
        pidfd = opener(pid)
    except OSError as error:
        raise _exited() from error
    if before is None or _start_time(proc / str(pid) / "stat") != before:
        os.close(pidfd)
        raise _exited()
    return pidfd


def _start_time(stat: Path) -> int | None:
    """Field 22 of proc(5) stat, in clock ticks since boot; the name before it may hold anything, brackets too."""
    try:
        with stat.open("rb") as file:
            return int(file.read(4096).rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _groups(sock: socket.socket) -> tuple[int, ...] | None:
    """None for more than are read."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MAX_GROUPS * 4)
    except OSError as error:
        if error.errno == errno.ERANGE:
            return None
        raise Denied(f"the caller's groups are unknown: {error.strerror}", code="denied.peer") from error
    return struct.unpack(f"{len(raw) // 4}I", raw)


def _caller(pid: int, uid: int, gid: int, groups: tuple[int, ...] | None, proc: Path) -> Caller:
    text = _cgroup(pid, proc)
    unit = HIDDEN if text is None else unit_of(text)
    return Caller(pid, uid, gid, groups or (), unit, container_of(text or ""), groups is None)


def _cgroup(pid: int, proc: Path) -> str | None:
    """None where it is not to be seen: /proc is mounted with hidepid, or the process is gone."""
    try:
        with (proc / str(pid) / "cgroup").open("rb") as file:
            return file.read(_CGROUP_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


def notes(proc: Path = Path("/proc")) -> tuple[str, ...]:
    """What keeps callers from being known, for an admin to mend. Ask as the user that will identify them."""
    if _cgroup(1, proc) is None:
        return ("/proc hides other processes (hidepid, ProtectProc=): units and containers of callers are not known",)
    return ()
