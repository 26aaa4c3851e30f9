"""What every process of ours does first: nothing of its memory reaches a disk (DESIGN.md, I6).

Core limit and coredump filter are inherited by children; PR_SET_DUMPABLE is reset by exec, so each process calls
``harden`` itself. Memory is locked with MCL_ONFAULT only: locking all at once doubles a Python process. Pages are
locked only where the limit is infinite, for a lock under a small limit would make later allocations fail.
"""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # asm-generic/mman.h
_COREDUMP_FILTER = Path("/proc/self/coredump_filter")


def harden(*, lock_memory: bool = True) -> tuple[str, ...]:
    """Keep this process's memory off every disk. Returns what could not be done, in words; raises nothing.

    Call it first, before a thread or a secret exists. A non-root process can't read all of its own /proc/self
    afterwards (PR_SET_DUMPABLE makes those files root's).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    notes = [_no_core_limit(), _empty_coredump_filter(), _not_dumpable(libc)]
    if lock_memory:
        notes.append(_locked(libc))
    return tuple(note for note in notes if note)


def _no_core_limit() -> str:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return ""


def _empty_coredump_filter() -> str:
    # A core handler behind a pipe is started whatever the limit says; it then gets registers, but no memory.
    try:
        _COREDUMP_FILTER.write_text("0")
    except OSError as error:
        return f"coredump_filter not set: {error.strerror}"
    return ""


def _not_dumpable(libc: ctypes.CDLL) -> str:
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        return f"still dumpable: {os.strerror(ctypes.get_errno())}"
    return ""


def _locked(libc: ctypes.CDLL) -> str:
    infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    if resource.getrlimit(resource.RLIMIT_MEMLOCK) != infinite:
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, infinite)
        except (OSError, ValueError):
            return "memory not locked: the limit is not infinite (LimitMEMLOCK=infinity)"
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        return f"memory not locked: {os.strerror(ctypes.get_errno())}"
    return ""
