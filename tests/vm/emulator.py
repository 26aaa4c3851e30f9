"""QEMU 10 unpacked under build/ (tests.vm.aptroot). Debian 12's QEMU 7.2 crashes current guest kernels: there its
backport is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.vm import aptroot
from tests.vm.command import BUILD, HarnessError, locked, run

ROOT = BUILD / "qemu"
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
        return aptroot.libraries(self.root)


def emulator() -> Emulator:
    """QEMU, unpacked at the first call (10 s and a download of 40 MB). Raises HarnessError."""
    with locked("qemu"):
        ready = Emulator(ROOT)
        if not _works(ready):
            _unpack()
            if not _works(ready):
                raise HarnessError(f"{ROOT}: the unpacked QEMU does not start: remove the folder and try again")
        return ready


def _works(candidate: Emulator) -> bool:
    if not (candidate.root / "usr/bin/qemu-system-x86_64").exists():
        return False
    try:
        return "version 10." in run(candidate.command[0], "--version", env=candidate.env)
    except HarnessError:
        return False


def _unpack() -> None:
    if (release := aptroot.release()) not in SUITES:
        raise HarnessError(f"the VM tests know Debian {' and '.join(SUITES)} as host, not {release or 'this system'}")
    aptroot.unpack(ROOT, SUITES[release], PACKAGES)
