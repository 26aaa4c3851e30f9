"""What early boot is measured with: our packages, and Debian 13 with clevis-initramfs and tang as a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.vm import tree, world
from tests.vm.command import BUILD, VM, HarnessError, locked, run

PEER = ("clevis-initramfs", "tang")


def our_packages() -> list[Path]:
    """Of the sources as they are: made if there are none. Raises HarnessError."""
    try:
        return world.debs()
    except HarnessError:
        run("sh", "packaging/deb.sh", BUILD)
        return world.debs()


def with_clevis() -> Path:
    """The VM tests' base tree with clevis and tang installed; made at the first call (half a minute)."""
    base = tree.base()
    wanted = VM / f"clevis-{base.name.removeprefix('base-')}"
    with locked("clevis"):
        if not wanted.is_dir():
            for old in VM.glob("clevis-*/"):
                shutil.rmtree(old)
            fresh = VM / "clevis-unfinished"
            tree.copy(base, fresh)
            _install(fresh)
            fresh.rename(wanted)
    return wanted


def _install(root: Path) -> None:
    """From the host's mirror, with the host's proxies, as the base tree was made."""
    proxies = root / "etc/apt/apt.conf.d/50host"
    shutil.copy(VM / "apt-host.conf", proxies)
    tree.inside(root, "apt-get", "update")
    tree.inside(root, "apt-get", "install", "--yes", "--no-install-recommends", *PEER)
    tree.inside(root, "apt-get", "clean")
    proxies.unlink()
    for part in (root / "var/lib/apt/lists").glob("*_*"):
        part.unlink()
