"""The files that this boot was made of, and those of the next one, as far as they are named or can be found.

/boot is the host's to write: what is found here is only ever compared with, or predicted for, what the hardware signs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agent.admin.image import BOOT, newest
from agent.core.errors import UsageError
from agent.core.measuredconfig import MeasuredConfig
from agent.verify.files import read_file

COMMAND_LINE = Path("/proc/cmdline")
UNIFIED = tuple(Path(top, "EFI/Linux") for top in ("/boot/efi", "/efi", "/boot"))
"""Where unified kernel images lie (UAPI boot loader specification, type 2)."""
MAX_COMMAND_LINE = 64 * 1024
MAX_UNIFIED = 32
_CPUINFO, _PRESENT = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu/present")
_MAX_CPUINFO = 64 * 1024
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Files:
    """What a boot is made of: a unified kernel image, or a kernel with what goes with it. None: not there."""

    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str | None = None
    uki: Path | None = None

    @property
    def complete(self) -> bool:
        return self.uki is not None or None not in (self.kernel, self.cmdline)


def running(config: MeasuredConfig, *, boot: Path = BOOT, line: Path = COMMAND_LINE) -> Iterator[Files]:
    """What may have been booted, the likeliest first: what is configured, then what has the running kernel's name."""
    cmdline = command_line(line)
    release = os.uname().release
    named = Files(config.kernel, config.initrd, config.cmdline or cmdline, config.uki)
    found = Files(_there(boot / f"vmlinuz-{release}"), _there(boot / f"initrd.img-{release}"), cmdline)
    candidates = [named, replace(named, cmdline=cmdline), found, replace(found, cmdline=named.cmdline)]
    candidates += [Files(cmdline=cmdline, uki=uki) for uki in unified()]
    seen: list[Files] = []
    for one in candidates:
        if one.complete and one not in seen:
            seen.append(one)
            yield one


def coming(config: MeasuredConfig, now: Files, *, boot: Path = BOOT) -> Files:
    """What would boot next where ``now`` is running: the configured files, else the newest of its kind."""
    if config.uki is not None or now.uki is not None:
        images = unified()
        return Files(cmdline=now.cmdline, uki=config.uki or (images[0] if images else now.uki))
    release, latest = os.uname().release, newest(boot, "vmlinuz-")
    # A boot loader names the kernel in the command line (BOOT_IMAGE=).
    cmdline = (now.cmdline or "").replace(release, latest) if latest else now.cmdline
    found = Files(_there(boot / f"vmlinuz-{latest}"), _there(boot / f"initrd.img-{latest}")) if latest else now
    return Files(config.kernel or found.kernel, config.initrd or found.initrd, config.cmdline or cmdline)


def unified(folders: tuple[Path, ...] = UNIFIED) -> list[Path]:
    """Unified kernel images, the newest first."""
    images: list[tuple[float, Path]] = []
    for folder in folders:
        try:
            found = [(entry.stat().st_mtime, Path(entry)) for entry in os.scandir(folder) if entry.is_file()]
        except OSError:
            continue
        images += [(time, path) for time, path in found if path.suffix == ".efi"]
    return [path for _, path in sorted(images, reverse=True)[:MAX_UNIFIED]]


def command_line(path: Path = COMMAND_LINE) -> str:
    """This boot's, or that of a file: one line, without its end. Raises UsageError, Oversized."""
    try:
        return read_file(str(path), MAX_COMMAND_LINE).decode().rstrip("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text") from error


def processors() -> int:
    """As many as the machine was started with. Raises UsageError where the kernel does not say."""
    text = read_file(str(_PRESENT), 4096).decode("ascii", "replace").strip()
    last = _RANGE.fullmatch(text.rsplit(",", 1)[-1])
    if last is None:
        raise UsageError(f"{_PRESENT} is {text[:40]!r}", hint="say it: vcpus")
    return int(last[2] or last[1]) + 1


def processor() -> tuple[int, int, int]:
    """Family, model and stepping that the processors report. Raises UsageError."""
    text = read_file(str(_CPUINFO), 1 << 24)[:_MAX_CPUINFO].decode("ascii", "replace")
    found = [
        re.search(rf"^{name}\s*:\s*(\d{{1,4}})$", text, re.MULTILINE) for name in ("cpu family", "model", "stepping")
    ]
    numbers = [int(one[1]) for one in found if one]
    if len(numbers) != len(found):
        raise UsageError(f"{_CPUINFO} does not say what the processors are", hint="say it: vcpu_type")
    return numbers[0], numbers[1], numbers[2]


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None
