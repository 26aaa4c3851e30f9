"""Is the initramfs that would boot next made of what is installed and configured now?

Compared are the configuration with the files it names, our code and Python's (by the hash of its source that each
compiled module carries), and the kernel's version. It tells stale from current, for the admin's sake; /boot is the
host's to write, so it says nothing about what will be measured.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import agent
from agent import settings
from agent.admin import volumes
from agent.boot import early
from agent.core import ports
from agent.core.config import Config
from agent.core.errors import ConfigError, PlatformError
from agent.run import run

HOOK = Path("/usr/share/initramfs-tools/hooks/tee-agent")
BOOT = Path("/boot")
PRIVATE = Path("usr/lib/tee-agent")
"""Our code's place in the image."""
SCRIPTS = {
    **{f"usr/lib/tee-agent/{name}": f"usr/lib/tee-agent/initramfs/{name}" for name in ("boot", "network")},
    **{
        f"scripts/{step}/tee-agent": f"usr/share/initramfs-tools/scripts/{step}/tee-agent"
        for step in ("local-top", "init-bottom", "panic")
    },
}
"""Shell scripts: place in the image, place in the system."""
MAX_FILE = 1 << 20
SHOWN = 3
_HASH_BASED = b"\x01\0\0\0"  # PEP 552: flags of a module checked by its source's hash, and then never


@dataclass(frozen=True, slots=True)
class Looked:
    """``state``, why in ``text``, and the names of crypttab that early boot knows, or should (None: not seen)."""

    state: Literal["current", "stale", "not installed", "unknown"]
    text: str
    names: frozenset[str] | None = None


def look(config: Config, deadline: ports.Deadline) -> Looked:
    """The newest kernel's initramfs, held against this system. Raises nothing of its own but DeadlineExceeded."""
    if not HOOK.exists():
        return Looked("not installed", "tee-agent-initramfs is not installed: early boot opens nothing by attestation")
    kernel = newest(BOOT, "vmlinuz-")
    if not kernel:
        return Looked("unknown", f"no kernel in {BOOT}")
    image = BOOT / f"initrd.img-{kernel}"
    if not image.exists():
        return Looked("stale", f"kernel {kernel} has no initramfs ({image})")
    try:
        with unpacked(image, deadline) as main:
            return judge(main, image, kernel, config)
    except (PlatformError, OSError) as error:
        return Looked("unknown", f"{image} can't be looked into: {error}")


def newest(folder: Path, prefix: str) -> str:
    """The highest version of the files ``prefix``VERSION, as a boot loader sorts them; "" for none."""
    versions = [path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*")]
    return max(versions, key=_order, default="")


def _order(version: str) -> list[tuple[int, int, str]]:
    parts = re.findall(r"[0-9]+|[^0-9]+", version)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


@contextmanager
def unpacked(image: Path, deadline: ports.Deadline) -> Iterator[Path]:
    """The image's own files (not the microcode before them) in a folder of root's. Raises PlatformError."""
    with tempfile.TemporaryDirectory(prefix="tee-agent-") as scratch:
        folder = Path(scratch) / "image"
        done = run(("unmkinitramfs", str(image), str(folder)), deadline=deadline)
        if done.returncode:
            raise PlatformError(f"unmkinitramfs failed: {done.stderr[:200].decode(errors='replace').strip()}")
        yield folder / "main" if (folder / "main").is_dir() else folder


def judge(main: Path, image: Path, kernel: str, config: Config, system: Path = Path("/")) -> Looked:
    """What the image unpacked at ``main`` is, for a ``system`` with this configuration."""
    inside = early.crypttab_names(main / "cryptroot/crypttab")
    asked = {entry.name for entry in volumes.entries(system / "etc/crypttab") if "initramfs" in entry.options}
    names = inside | asked
    opened = early.chosen(config.volumes, names)
    if not opened:
        return Looked("current", f"{image}: no configured volume is opened in early boot", names)
    found = [f"its crypttab has no {name}" for name in sorted(asked - inside)]
    found += differences(main, kernel, config, system)
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return Looked("stale", f"{image}: {', '.join(found[:SHOWN])}{more}", names)
    text = f"{image} has today's configuration and agent; opens {', '.join(one.name for one in opened)}"
    return Looked("current", text, names)


def differences(main: Path, kernel: str, config: Config, system: Path) -> Iterator[str]:
    """In words, what the image has not, or has differently."""
    if not (main / PRIVATE / "agent").is_dir():
        yield "the boot agent is not in it"
        return
    if not any((main / folder / kernel).is_dir() for folder in ("usr/lib/modules", "lib/modules")):
        yield f"no modules of kernel {kernel}"
    named = (config.tas.api_key_file, config.tas.ca_file) if config.tas else ()
    for path in (Path(config.source), *named):
        if path is not None and _content(main / _below(path)) != _content(system / _below(path)):
            yield f"{path} differs"
    for inside, outside in SCRIPTS.items():
        if _content(main / inside) != _content(system / outside):
            yield f"{inside} differs"
    for module in sorted(main.rglob("*.pyc")):
        if problem := _module(module, main, system):
            yield problem


def _below(path: Path) -> str:
    return str(path).lstrip("/")


def _content(path: Path) -> bytes | None:
    try:
        return settings.read_bounded(path, MAX_FILE)
    except ConfigError:
        return None


def _module(module: Path, main: Path, system: Path) -> str:
    """Why a compiled module is not that of the installed source, "" if it is."""
    place = module.relative_to(main).with_suffix(".py")
    source, compiled = _source(place, system), _content(module)
    if source is None:
        return f"{place} is not installed any more"
    head = (compiled or b"")[:16]
    expected = importlib.util.MAGIC_NUMBER + _HASH_BASED + importlib.util.source_hash(source.read_bytes())
    return "" if head == expected else f"{place} differs"


def _source(place: Path, system: Path) -> Path | None:
    candidates = [system / place]
    if place.is_relative_to(PRIVATE):
        ours = Path(agent.__file__).parents[1]
        candidates = [folder / place.relative_to(PRIVATE) for folder in (ours, *map(Path, sys.path))]
    return next((path for path in candidates if path.is_file()), None)
