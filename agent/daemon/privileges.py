"""Gives up what a role does not need, before it reads a byte from anybody (DESIGN.md, section 5).

Started as root, a role becomes its own user, with no groups, no capabilities, an empty bounding set and
no_new_privs; the signer also leaves the network namespace. Started as another user (a unit with User=), it keeps
that user and sets no_new_privs. One-way: nothing here can be taken back.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import signal
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.core.access import Members
from agent.core.daemonconfig import DaemonConfig
from agent.core.errors import ConfigError, PermissionMissing
from agent.daemon.peers import Allowed

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # linux/prctl.h
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_CAPABILITY_VERSION_3, _CAPABILITY_DATA = 0x20080522, 24  # linux/capability.h: two records of three u32
_MAX_CAPABILITY = 64
"""Numbers of capabilities are below this (linux/capability.h names 41)."""


@dataclass(frozen=True, slots=True)
class User:
    """Whom a role runs as."""

    uid: int
    gid: int


def find_user(name: str, key: str) -> User:
    """A user by name or decimal id; an id without an entry gets the group of the same number. Raises ConfigError."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        if not name.isdecimal():
            raise ConfigError(
                f"daemon.{key}: there is no user {name}", hint=f"useradd --system {name}, or name another user"
            ) from None
        return User(int(name), int(name))
    return User(entry.pw_uid, entry.pw_gid)


def unprivileged(name: str, key: str) -> User:
    """The same, but never root: keys and network stay away from it. Raises ConfigError."""
    user = find_user(name, key)
    if user.uid == 0 or user.gid == 0:
        raise ConfigError(f"daemon.{key}: must not be root", hint="name a user of its own, e.g. tee-agent")
    return user


def allowed(config: DaemonConfig) -> tuple[Allowed, tuple[str, ...]]:
    """Who may use the socket, and the configured names that this machine does not know: those match nobody."""
    uids, unknown_users = _resolve(config.allow_users, _uid)
    gids, unknown_groups = _resolve(config.allow_groups, _gid)
    return Allowed(uids, gids), unknown_users + unknown_groups


def members(config: DaemonConfig) -> tuple[Members, tuple[str, ...]]:
    """The same for the access policy."""
    found, unknown = allowed(config)
    return Members(found.uids, found.gids), unknown


def _resolve(names: Iterable[str], lookup: Callable[[str], int | None]) -> tuple[frozenset[int], tuple[str, ...]]:
    found = {name: int(name) if name.isdecimal() else lookup(name) for name in names}
    known = frozenset(number for number in found.values() if number is not None)
    return known, tuple(name for name, number in found.items() if number is None)


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def name_process(name: str) -> None:
    """What ps shows beside the command line: 15 bytes."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode("ascii")[:15], 0, 0, 0)


def end_with_parent() -> None:
    """SIGKILL when the process that forked this one ends. One that has ended before is not noticed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def leave_network() -> None:
    """A network namespace of its own, with nothing in it. Needs root. Raises PermissionMissing."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise PermissionMissing(
            f"the signer can't leave the network: {os.strerror(ctypes.get_errno())}",
            hint="a container needs CAP_SYS_ADMIN for this",
        )


def become(user: User) -> None:
    """This user for good, without capabilities. Raises PermissionMissing.

    Who is not root stays who it is, groups included.
    """
    if os.geteuid() == 0:
        _change_user(user)
    # What a change of user left (it need not take them all: capabilities(7), SECBIT_NO_SETUID_FIXUP), or whoever
    # started us gave.
    drop_capabilities()


def _change_user(user: User) -> None:
    _no_new_privileges()
    try:
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except (OSError, OverflowError) as error:
        raise PermissionMissing(f"can't become user {user.uid}: {error}") from error
    if os.getresuid() != (user.uid,) * 3 or os.getresgid() != (user.gid,) * 3 or os.getgroups():
        raise PermissionMissing(f"did not become user {user.uid}")


def drop_capabilities() -> None:
    """Stay who we are, root too, but without a single capability. Raises PermissionMissing."""
    _no_new_privileges()
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    held = ctypes.create_string_buffer(_CAPABILITY_DATA)
    # A unit without capabilities has no use for the call, and its filter refuses it.
    if libc.capget(header, held) == 0 and not any(held.raw):
        return
    if libc.capset(header, bytes(_CAPABILITY_DATA)):
        raise PermissionMissing(f"can't drop capabilities: {os.strerror(ctypes.get_errno())}")


def _no_new_privileges() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        for capability in range(_MAX_CAPABILITY):
            if libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
                libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise PermissionMissing(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
