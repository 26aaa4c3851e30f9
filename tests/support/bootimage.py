"""An initramfs as a folder, and the boot agent run inside it: what the hook puts there and nothing else.

Needs root (chroot, mounts of its own). The kernel's command line is replaced, device-mapper is hidden; the network is
the host's.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initramfs import closure

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120
PROGRAMS = ("sh", "cryptsetup", "blkid", "mount")
_MOUNTS = """
mount -t tmpfs tmpfs "$1/dev"
for node in null zero random urandom; do : >"$1/dev/$node"; mount --bind "/dev/$node" "$1/dev/$node"; done
mount -t proc proc "$1/proc"
mount --bind "$1/etc/cmdline" "$1/proc/cmdline"
mount --bind /dev/null "$1/proc/misc"
mount --rbind /sys "$1/sys"
[ -z "$4" ] || { : >"$1/dev/console"; mount --bind "$4" "$1/dev/console"; }
[ -z "$2" ] || mount --bind "$2" "$1/tsm"
exec chroot "$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/tee-agent/boot "$3"
"""


@dataclass(frozen=True)
class Booted:
    """How a step ended: exit status, what the console showed, and boot.json."""

    status: int
    console: str
    report: dict[str, Any]


class Typist:
    """Types one line at each prompt ("try N of"), at a terminal of their own."""

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)
        self._master, self._slave = os.openpty()
        self.terminal = os.ttyname(self._slave)
        self._seen = bytearray()
        self._leaving, self._left = os.pipe()
        self._thread = threading.Thread(target=self._sit, daemon=True)
        self._thread.start()

    def leave(self) -> str:
        """What stood on the screen."""
        os.close(self._left)
        self._thread.join(SECONDS)
        for fd in (self._master, self._slave, self._leaving):
            os.close(fd)
        return self._seen.decode()

    def _sit(self) -> None:
        answered = 0
        while True:
            ready, _, _ = select.select([self._master, self._leaving], [], [])
            if self._master not in ready:
                return
            self._seen += os.read(self._master, 4096)
            if self._lines and self._seen.count(b" of 3): ") > answered:
                answered += 1
                os.write(self._master, self._lines.pop(0).encode() + b"\n")


class BootImage:
    """The image in ``folder``. ``config`` is its tee-agent.toml; the evidence tree is seen as /tsm."""

    def __init__(self, folder: Path, config: str, files: dict[str, bytes]) -> None:
        self.folder = folder
        system = folder.with_name(folder.name + ".system")
        for name, content in {"etc/tee-agent/tee-agent.toml": config.encode(), **files}.items():
            place = system / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        for name in ("dev", "proc", "sys", "run", "tsm", "etc", "usr/bin"):
            (folder / name).mkdir(parents=True)
        for line in closure.install(folder, system):
            source, target = line.split()
            self._executable(Path(source), target)
        self._executable(Path(sys.executable).resolve(), "/usr/bin/python3")
        for name in (*PROGRAMS, "env"):
            self._executable(found(name), f"/usr/bin/{name}")
        # There is nothing to load, and the host's modules are not ours to load.
        self.script("usr/bin/modprobe", "#!/bin/sh\nexit 0\n")
        (folder / "bin").symlink_to("usr/bin")
        shutil.copy(ROOT / "initramfs" / "boot", folder / "usr/lib/tee-agent/boot")
        self.command_line("root=/dev/mapper/root ro quiet")

    def copy(self, folder: Path, config: str) -> BootImage:
        """The same image elsewhere, with another configuration."""
        shutil.copytree(self.folder, folder, symlinks=True)
        made = BootImage.__new__(BootImage)
        made.folder = folder
        (folder / "etc/tee-agent/tee-agent.toml").write_text(config)
        return made

    def script(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def command_line(self, text: str) -> None:
        (self.folder / "etc/cmdline").write_text(text + "\n")

    def boot(self, step: str, tsm: Path | None = None, typist: Typist | None = None) -> Booted:
        """Run one step as the script in the image does; ``typist`` sits at its console."""
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", _MOUNTS, "sh"]
        words = [str(self.folder), str(tsm or ""), step, typist.terminal if typist else ""]
        done = subprocess.run(argv + words, capture_output=True, text=True, timeout=SECONDS, check=False)
        seen = done.stderr + (typist.leave() if typist else "")
        report = self.folder / "run/tee-agent/boot.json"
        return Booted(done.returncode, seen, json.loads(report.read_text()) if report.exists() else {})

    def _executable(self, source: Path, target: str) -> None:
        """A program or library with the libraries it is linked to."""
        self._copy(source, target)
        ldd = subprocess.run(["ldd", str(source)], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", ldd):
            self._copy(Path(library), library)

    def _copy(self, source: Path, target: str) -> None:
        place = self.folder / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy(source, place)


def found(program: str) -> Path:
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert path, f"{program} is not installed"
    return Path(path).resolve()


def files_below(folder: Path) -> Iterable[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
