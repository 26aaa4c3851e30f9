"""The first steps of early boot, with little to import: may this boot go on at all, and what has to be opened?

Then the slow things are started side by side: the wrapping key, the network, kernel modules. Only then the rest of the
program is loaded.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from agent import settings
from agent.boot.advance import KeyInAdvance
from agent.boot.kernel import Modules
from agent.boot.network import Network
from agent.boot.report import Report
from agent.core import cmdline
from agent.core.config import Config, VolumeConfig
from agent.core.errors import PlatformError
from agent.deadline import Deadline
from agent.hardening import harden

CMDLINE = Path("/proc/cmdline")
CRYPTTAB = Path("/cryptroot/crypttab")
"""Made by cryptsetup's hook: the volumes that this initramfs needs."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What the later steps work on. ``root`` is the command line's ``root=``."""

    config: Config
    volumes: tuple[VolumeConfig, ...]
    root: str
    deadline: Deadline
    network: Network
    modules: Modules
    key: KeyInAdvance


def run(report: Report) -> None:
    """Open every volume of the boot, or raise why this machine must not go on."""
    report.started()
    harden()
    config = settings.load()
    root = command_line(config)
    volumes = chosen(config.volumes, crypttab_names())
    if not volumes:
        report.outcome = "idle"
        return
    deadline = Deadline(config.boot.deadline_seconds, "early boot")
    report.save()  # makes the folder that the helper logs to
    key = KeyInAdvance()
    network = Network(config.boot.ip)
    report.mark("network started")
    try:
        boot = Boot(config, volumes, root, deadline, network, Modules(), key)
        importlib.import_module("agent.boot.unlocking").run(boot, report)
    finally:
        network.down()


def command_line(config: Config, path: Path = CMDLINE) -> str:
    """The value of ``root=``. Raises Denied for a word outside the allow-list, before anything is asked for."""
    try:
        line = path.read_text("ascii", errors="replace")
    except OSError as error:
        raise PlatformError(f"{path}: cannot be read: {error.strerror}") from error
    return cmdline.check(line, config.boot.cmdline_allow, config.boot.root)


def crypttab_names(path: Path = CRYPTTAB) -> frozenset[str]:
    """The names in the initramfs's crypttab; none without one."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return frozenset()
    return frozenset(line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("#"))


def chosen(volumes: tuple[VolumeConfig, ...], names: frozenset[str]) -> tuple[VolumeConfig, ...]:
    """The volumes of early boot: those that say so, and of those that say nothing the ones crypttab names."""
    return tuple(v for v in volumes if (v.name in names if v.initramfs is None else v.initramfs))
