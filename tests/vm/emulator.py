"""QEMU 10 unpacked under build/, from the host's own package mirror, without touching the host.

Debian 12's QEMU 7.2 crashes current guest kernels, so there its backport is taken. apt works with lists, cache and
sources of its own under build/; the host's keyrings, proxies and installed libraries are used as they are.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.vm.command import BUILD, HarnessError, locked, run

ROOT = BUILD / "qemu"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT_MIRROR = "http://deb.debian.org/debian"
SUITES = {"bookworm": ("bookworm", "bookworm-backports"), "trixie": ("trixie",)}
"""By the host's release; QEMU is taken from the last one."""
PACKAGES = ("qemu-system-x86", "qemu-system-data", "seabios")


@dataclass(frozen=True, slots=True)
class Emulator:
    """An unpacked QEMU. ``command`` comes before QEMU's arguments; ``env`` is added to the environment."""

    root: Path

    @property
    def command(self) -> tuple[str, ...]:
        share = self.root / "usr/share"
        program = self.root / "usr/bin/qemu-system-x86_64"
        return (str(program), "-L", str(share / "qemu"), "-L", str(share / "seabios"))

    @property
    def env(self) -> dict[str, str]:
        triplet = f"{platform.machine()}-linux-gnu"
        return {"LD_LIBRARY_PATH": f"{self.root}/usr/lib/{triplet}:{self.root}/lib/{triplet}"}


def emulator() -> Emulator:
    """QEMU, unpacked at the first call (10 s and a download of 40 MB). Raises HarnessError."""
    with locked("qemu"):
        ready = Emulator(ROOT)
        if not _works(ready):
            _unpack()
            if not _works(ready):
                raise HarnessError(f"{ROOT}: the unpacked QEMU does not start: remove the folder and try again")
        return ready


def mirror() -> str:
    """Where this machine gets its Debian packages."""
    text = run("apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages")
    rows = [line.split() for line in text.splitlines()]
    return next((row[-1].rstrip("/") for row in rows if row[:-1] == ["Debian", "Debian"]), DEFAULT_MIRROR)


def _works(candidate: Emulator) -> bool:
    if not (candidate.root / "usr/bin/qemu-system-x86_64").exists():
        return False
    try:
        return "version 10." in run(candidate.command[0], "--version", env=candidate.env)
    except HarnessError:
        return False


def _unpack() -> None:
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    if release not in SUITES:
        raise HarnessError(f"the VM tests know Debian {' and '.join(SUITES)} as host, not {release or 'this system'}")
    shutil.rmtree(ROOT, ignore_errors=True)
    apt = ROOT / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    lines = [f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n" for suite in SUITES[release]]
    (apt / "sources.list").write_text("".join(lines))
    options = _options(apt)
    run("apt-get", *options, "update")
    words = ("install", "--download-only", "--reinstall", "--yes", "--no-install-recommends")
    run("apt-get", *options, *words, "-t", SUITES[release][-1], *PACKAGES)
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        run("dpkg", "--extract", package, ROOT)
    shutil.rmtree(apt)


def _options(apt: Path) -> list[str]:
    settings = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "APT::Update::Post-Invoke": "",
        "APT::Update::Post-Invoke-Success": "",
        "APT::Keep-Downloaded-Packages": "true",
        "APT::Sandbox::User": f"#{os.getuid()}",
        "Debug::NoLocking": "true",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
