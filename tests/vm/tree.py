"""Debian trees as folders: the base system, commands inside, packages on top.

The base is made once for its list of packages (a minute); every image starts from a copy of it (a second).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.vm.aptroot import KEYRING, mirror
from tests.vm.command import VM, HarnessError, locked, run

RELEASE = "trixie"
PACKAGES = (
    *("linux-image-cloud-amd64", "systemd-sysv", "systemd-cryptsetup", "udev", "kmod", "login", "passwd", "iproute2"),
    *("initramfs-tools", "cryptsetup-initramfs", "zstd", "ca-certificates", "curl", "netcat-openbsd", "libfuse3-4"),
    *(
        "python3",
        "python3-asn1crypto",
        "python3-cryptography",
        "python3-httptools",
        "python3-requests",
        "python3-rfc8785",
        "python3-sdnotify",
    ),
)
_UNREAD = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_MOUNTS = "mount -t proc proc $0/proc; mount --rbind /sys $0/sys; mount --rbind /dev $0/dev; mount -t tmpfs run $0/run"
_ENTER = f'set -e; {_MOUNTS}; exec chroot "$0" "$@"'


def digest(paths: Iterable[Path]) -> str:
    """Of the names and contents of these files, and of all files below these folders."""
    total = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" not in file.parts:
                total.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def base() -> Path:
    """The base tree, made at the first call. Raises HarnessError."""
    wanted = VM / f"base-{hashlib.sha256(repr((RELEASE, PACKAGES, _UNREAD)).encode()).hexdigest()[:16]}"
    with locked("base"):
        if not wanted.is_dir():
            for old in VM.glob("base-*"):
                shutil.rmtree(old)
            fresh = VM / "base-unfinished"
            _bootstrap(fresh)
            fresh.rename(wanted)
    return wanted


def copy(tree: Path, target: Path) -> None:
    """A copy that shares nothing, or blocks only; of what a link names, not of the link."""
    shutil.rmtree(target, ignore_errors=True)
    run("cp", "-a", "--reflink=auto", tree.resolve(), target)


def inside(tree: Path, *argv: str) -> str:
    """Run a command as root inside ``tree``, with the kernel's file systems, in mounts of its own."""
    clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")
    quiet = ("DEBIAN_FRONTEND=noninteractive",)
    enter = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, tree)
    return run(*enter, *clean, *quiet, *argv)


def install(tree: Path, packages: Iterable[Path]) -> None:
    """Install .deb files with apt. What they depend on must be in PACKAGES: the tree has no package lists."""
    place = tree / "var/tmp"
    names = []
    for package in packages:
        shutil.copy(package, place)
        names.append(f"/var/tmp/{package.name}")
    words = ("install", "--yes", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold")
    inside(tree, "apt-get", *words, *names)
    for name in names:
        (tree / name.lstrip("/")).unlink()


def purge(tree: Path, *names: str) -> None:
    inside(tree, "apt-get", "purge", "--yes", *names)


def _bootstrap(target: Path) -> None:
    if not KEYRING.exists():
        raise HarnessError(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
    VM.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    # The host's proxies and time settings, in the words of its own apt.
    settings = VM / "apt-host.conf"
    settings.write_text(run("apt-config", "dump", "--format", '%F "%v";%n', "Acquire"))
    words = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", f"--keyring={KEYRING}"]
    words += [f"--aptopt={settings}", '--aptopt=APT::Install-Recommends "false"']
    words += [f"--dpkgopt=path-exclude={pattern}" for pattern in _UNREAD]
    words += ['--customize-hook=rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap']
    run(*words, RELEASE, target, mirror())
