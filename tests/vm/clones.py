"""What a hostile host plugs in: its own root file system under our UUID, a second disk under our LUKS UUID."""

from __future__ import annotations

import shutil
from pathlib import Path

from sim import luks_attack
from tests.vm import tree
from tests.vm.command import run
from tests.vm.image import FILESYSTEM_UUID

RUNS = "THE ATTACKER'S ROOT RUNS"
"""Said through the kernel's log: what a program writes to the console may be cut by a kernel line, or by power-off."""
_INIT = f"""#!/bin/sh
echo "<0>{RUNS}" >/dev/kmsg
echo o >/proc/sysrq-trigger
while :; do :; done
"""
_HEADER_BYTES = 16 << 20


def null_cipher(image: Path, target: Path) -> Path:
    """The volume with a header that says it is not encrypted, checksums and all."""
    run("cp", "--sparse=always", "--reflink=auto", image, target)
    luks_attack.null_cipher(target)
    return target


def luks_clone(image: Path, target: Path) -> Path:
    """A disk of the same size with the volume's own header, and nothing behind it."""
    with image.open("rb") as source, target.open("wb") as copy:
        copy.write(source.read(_HEADER_BYTES))
        copy.truncate(image.stat().st_size)
    return target


def filesystem_clone(base: Path, target: Path) -> Path:
    """A plain file system with the root's UUID, whose init says that it runs."""
    root = target.with_suffix(".tree")
    for name in ("dev", "proc", "sys", "run", "tmp", "sbin", "bin", "etc", "root", "usr/lib/x86_64-linux-gnu", "lib64"):
        (root / name).mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    init = root / "sbin/init"
    init.write_text(_INIT)
    init.chmod(0o755)
    shutil.copy(base / "usr/bin/dash", root / "bin/sh")
    for line in tree.inside(base, "ldd", "/usr/bin/dash").splitlines():
        for word in line.split():
            if word.startswith("/"):
                shutil.copy((base / word.lstrip("/")).resolve(), root / word.lstrip("/"))
    run("mke2fs", "-q", "-t", "ext4", "-U", FILESYSTEM_UUID, "-d", root, "-F", target, "64M")
    shutil.rmtree(root)
    return target
