"""Debian packages unpacked in a folder of their own under build/, from the host's mirror, without touching the host.

apt works with lists, cache and sources of its own there; the host's keyrings, proxies and list of installed packages
are used as they are, so what is fetched is what was asked for and the libraries that the host lacks for it.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.vm.command import HarnessError, run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT_MIRROR = "http://deb.debian.org/debian"
PATIENCE_SECONDS = 60
"""Without a byte from the mirror."""


class UnreachableError(HarnessError):
    """The package index could not be fetched."""


def release() -> str:
    """The host's, such as ``bookworm``; empty where it has none."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def mirror() -> str:
    """Where this machine gets its Debian packages."""
    text = run("apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages")
    rows = [line.split() for line in text.splitlines()]
    return next((row[-1].rstrip("/") for row in rows if row[:-1] == ["Debian", "Debian"]), DEFAULT_MIRROR)


def libraries(root: Path) -> dict[str, str]:
    """What is added to the environment of a program from there."""
    triplet = f"{platform.machine()}-linux-gnu"
    return {"LD_LIBRARY_PATH": f"{root}/usr/lib/{triplet}:{root}/lib/{triplet}"}


def unpack(root: Path, suites: Sequence[str], packages: Sequence[str]) -> None:
    """``packages`` in the folder ``root``, whatever was there before; of these suites, the last one's before others'.

    ``name/suite`` takes that suite's, be it older than what is installed. Raises HarnessError, UnreachableError.
    """
    shutil.rmtree(root, ignore_errors=True)
    apt = root / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    source = mirror()
    lines = [f"deb [signed-by={KEYRING}] {source} {suite} main\n" for suite in suites]
    (apt / "sources.list").write_text("".join(lines))
    options = _options(apt)
    try:
        run("apt-get", *options, "update", "--error-on=any")
    except HarnessError as error:
        raise UnreachableError(f"the package index at {source} can't be fetched: {error}") from error
    words = ("install", "--download-only", "--reinstall", "--allow-downgrades", "--yes", "--no-install-recommends")
    run("apt-get", *options, *words, "-t", suites[-1], *packages)
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        run("dpkg", "--extract", package, root)
    shutil.rmtree(apt)


def _options(apt: Path) -> list[str]:
    settings = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "Acquire::http::Timeout": PATIENCE_SECONDS,
        "Acquire::https::Timeout": PATIENCE_SECONDS,
        "APT::Update::Post-Invoke": "",
        "APT::Update::Post-Invoke-Success": "",
        "APT::Keep-Downloaded-Packages": "true",
        "APT::Sandbox::User": f"#{os.getuid()}",
        "Debug::NoLocking": "true",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
