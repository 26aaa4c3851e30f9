"""Where a machine runs: one of as many places as there are processors for, each with a network of its own.

The service's port stands in the configuration inside the initramfs, so two boots of one world need the same port at
once. A network namespace with nothing but loopback gives each its own; QEMU's user networking only needs that much.
An emulated machine keeps little more than one processor busy.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from tests.vm.command import VM, HarnessError

PLACES = max(1, os.cpu_count() or 1)
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40  # linux/sockios.h, linux/if.h
_POLL_SECONDS = 0.5


@contextmanager
def place() -> Iterator[Path]:
    """A free place, waited for: its empty folder, and until the end this thread's network is its own."""
    with ExitStack() as stack:
        folder = VM / f"run-{_free(stack)}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stack.callback(shutil.rmtree, folder)
        stack.enter_context(_own_network())
        yield folder


def _free(stack: ExitStack) -> int:
    """The number of a place, ours until ``stack`` ends."""
    VM.mkdir(parents=True, exist_ok=True)
    locks = [stack.enter_context((VM / f"place-{number}.lock").open("w")) for number in range(PLACES)]
    while True:
        for number, lock in enumerate(locks):
            if _take(lock):
                return number
        time.sleep(_POLL_SECONDS)


def _take(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _own_network() -> Iterator[None]:
    """For this thread, and for all that it starts meanwhile: building an image needs the machine's own again."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET):
            raise HarnessError(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            _loopback_up()
            yield
        finally:
            if libc.setns(before, _CLONE_NEWNET):
                raise HarnessError(f"no way back to the network: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(before)


def _loopback_up() -> None:
    """netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("=16sh22x", b"lo", _IFF_UP | _IFF_RUNNING)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)
