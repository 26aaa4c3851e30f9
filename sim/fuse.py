"""The tree as a FUSE file system (libfuse 3 through mfusepy): paths, handles and errnos, no rule of its own.

The kernel's part: permissions (default_permissions), names, and close. configfs commits in release; FUSE's release
comes after close has returned, so flush, which close waits for, commits here.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import mfusepy

from sim.kernel import failure
from sim.tree import Handle, Tree

FSNAME = "tee-agent-simulator"
"""The source shown in /proc/self/mountinfo: how a stale mount of ours is known."""

_THREADS = 10
"""Idle worker threads; unset, libfuse 3.14 complains of its own default on stderr."""


class Operations:
    """What libfuse calls. Any OSError is answered with its errno."""

    use_ns = True

    def __init__(self, tree: Tree, mounted: Callable[[], None]) -> None:
        self._tree, self._mounted = tree, mounted
        self._handles: dict[int, Handle] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), time.time_ns())

    def init_with_config(self, _connection: object, _config: object) -> None:
        """The kernel has answered: the tree is visible."""
        self._mounted()

    def getattr(self, path: str, _info: object = None) -> dict[str, int]:
        node = self._tree.node(path)
        return {"st_mode": node.mode, "st_size": node.size, "st_nlink": 1, "st_uid": 0, "st_gid": 0, **self._times}

    def readdir(self, path: str, _handle: object) -> list[str]:
        return [".", "..", *self._tree.listing(path)]

    def mkdir(self, path: str, _mode: int) -> int:
        self._tree.mkdir(path)
        return 0

    def rmdir(self, path: str) -> int:
        self._tree.rmdir(path)
        return 0

    def open(self, path: str, info: Any) -> int:
        access = info.flags & os.O_ACCMODE
        handle = self._tree.open(path, read=access != os.O_WRONLY, write=access != os.O_RDONLY)
        info.direct_io = 1  # sizes are not known beforehand: every read and write comes here
        info.nonseekable = handle.attribute.binary  # as in configfs
        with self._lock:
            info.fh = next(self._numbers)
            self._handles[info.fh] = handle
        return 0

    def read(self, _path: str, size: int, offset: int, info: Any) -> bytes:
        return self._handles[info.fh].read(size, offset)

    def write(self, _path: str, data: bytes, offset: int, info: Any) -> int:
        return self._handles[info.fh].write(data, offset)

    def flush(self, _path: str, info: Any) -> int:
        self._handles[info.fh].close()
        return 0

    def release(self, _path: str, info: Any) -> int:
        with self._lock:
            handle = self._handles.pop(info.fh)
        handle.close()
        return 0

    def truncate(self, path: str, _length: int) -> int:
        """A shell's ``>`` truncates first: configfs takes it and does nothing."""
        self._tree.node(path)
        return 0

    def create(self, _path: str, _mode: int, _info: object = None) -> Never:
        raise failure(errno.EACCES)

    def _never(self, *_: object) -> Never:
        raise failure(errno.EPERM)

    mknod = unlink = symlink = link = rename = chmod = chown = _never


def serve(tree: Tree, mountpoint: Path, mounted: Callable[[], None]) -> None:
    """Mount and serve until unmounted; ``mounted`` is called once clients can see the tree.

    Raises RuntimeError with libfuse's status when mounting fails (libfuse itself says why on stderr).
    """
    mfusepy.FUSE(
        Operations(tree, mounted),
        str(mountpoint),
        raw_fi=True,
        foreground=True,
        fsname=FSNAME,
        allow_other=True,
        default_permissions=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        max_idle_threads=_THREADS,
    )
