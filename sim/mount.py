"""A TEE's face as configfs-tsm: the tree on its mount point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sim import fuse, host
from sim.tree import Tree


class Mount:
    """The tree on a mount point, from ``open`` to ``close``."""

    def __init__(self, tree: Tree, mountpoint: Path) -> None:
        self._tree, self._mountpoint = tree, mountpoint
        self._made = False

    def open(self) -> None:
        """Raises Conflict, OSError."""
        self._made = host.prepare_mountpoint(self._mountpoint)
        self._mountpoint = self._mountpoint.resolve()

    def serve(self, up: Callable[[], None]) -> None:
        """Serve until unmounted. Raises RuntimeError with libfuse's status (libfuse itself says why on stderr)."""
        fuse.serve(self._tree, self._mountpoint, up)

    def close(self) -> None:
        """Detach it at once; a mount point that was made here goes too."""
        host.unmount(self._mountpoint)
        if self._made:
            self._mountpoint.rmdir()
