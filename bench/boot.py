"""Network up to volume mapped: the agent against clevis and tang, in one virtual machine, emulation and Debian.

The same disks, simulator and kernel; only the root disk and its initramfs differ. Both moments are taken by the same
two marks, laid over both initramfs: after the distribution's own network helper, and by udev when the mapping is there.
The services run on the host, outside the emulation.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import debian, tang
from bench.figure import Figure, paired
from tests.vm import cpio, image, qemu, scenarios, timeline, tree, world
from tests.vm.command import VM, HarnessError, locked
from tests.vm.emulator import emulator
from tests.vm.qemu import Disk, Hardware

ROUNDS = 3
_SECONDS = 300.0
_NETWORK, _MAPPED = "bench-network", "bench-mapped"
_MARK = "read -r up _ </proc/uptime; echo $up >/run/vm-marks/"
_RULE = (
    f'ACTION=="change", ENV{{DM_NAME}}=="root", TEST!="/run/vm-marks/{_MAPPED}", '
    f"RUN+=\"/bin/sh -c '{_MARK.replace('$', '$$')}{_MAPPED}'\"\n"
)
_HELPER = "configure_networking()"
_WRAPPED = f"""
{_HELPER}
{{
	_{_HELPER.removesuffix("()")} "$@"
	[ -e /run/vm-marks/{_NETWORK} ] || {{ {_MARK}{_NETWORK}; }}
}}
"""
_FOR_CLEVIS = " net.ifnames=0 ip=:::::eth0:dhcp"
"""It takes the interface's name from ip=, and nothing else will do."""
_STEPS = ("imported", "key", "evidence", "secret", "mapped")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared: its machine, and who serves it."""

    name: str
    hardware: Hardware
    served: Callable[[Path], AbstractContextManager[object]]


def to_mapped() -> list[Figure]:
    """network up to volume mapped in a virtual machine, against clevis and tang"""
    debian.our_packages()
    here = world.world("agent")
    words = ["tee=snp", "probes=root,boot,times", *(f"sim:{word}" for word in world.SIMULATED["snp"])]
    machine = Hardware(
        kernel=here.file("vmlinuz"),
        initrd=here.file("initrd.img"),
        cmdline=scenarios.CMDLINE,
        disks=(Disk(here.file("disk.img"), "root-disk"), Disk(here.file("simulator.img"), "tee-simulator")),
        product=" ".join(words),
    )
    with tempfile.TemporaryDirectory(prefix="bench-", dir=VM) as name, ExitStack() as stack:
        folder = Path(name)
        ours = Side("the agent", _marked(machine, folder / "ours.img"), partial(here.service, "snp"))
        theirs = Side(
            "clevis", _marked(_clevis(machine, folder, stack), folder / "theirs.img"), lambda _: nullcontext()
        )
        reports: list[dict[str, Any]] = []
        with locked("boot"):
            mine, other, ratio = paired(partial(_seconds, ours, reports), partial(_seconds, theirs, []), ROUNDS)
    detail = f"{mine:.2f} s against {other:.2f} s, emulated; seconds after network up: {_where(reports)}"
    return [Figure("network up to volume mapped", ratio, "x", 1.0, False, "clevis + tang", detail)]


def _clevis(machine: Hardware, folder: Path, stack: ExitStack) -> Hardware:
    """The same machine with a root disk bound to a tang server that now runs."""
    tools = folder / "tools"
    tree.copy(debian.with_clevis(), tools)
    made = folder / "clevis"
    (folder / "none").mkdir()
    (made / "scratch").mkdir(parents=True)
    image.build(tools, [], {}, folder / "none", made, purge=False)
    port = stack.enter_context(tang.serving(tools))
    tang.bind(tools, made / "disk.img", port, image.PASSPHRASE)
    return replace(
        machine,
        kernel=made / "vmlinuz",
        initrd=made / "initrd.img",
        cmdline=machine.cmdline + _FOR_CLEVIS,
        disks=(Disk(made / "disk.img", "root-disk"), *machine.disks[1:]),
    )


def _marked(machine: Hardware, target: Path) -> Hardware:
    """With the two marks in its initramfs."""
    functions = (tree.base() / "usr/share/initramfs-tools/scripts/functions").read_text()
    if f"\n{_HELPER}\n" not in functions:
        raise HarnessError(f"initramfs-tools has no {_HELPER} any more: the bench must learn its new name")
    marks = {
        "scripts/functions": functions.replace(f"\n{_HELPER}\n", f"\n_{_HELPER}\n") + _WRAPPED,
        "usr/lib/udev/rules.d/99-bench.rules": _RULE,
    }
    cpio.added(machine.initrd, {name: text.encode() for name, text in marks.items()}, target)
    return replace(machine, initrd=target)


def _seconds(side: Side, reports: list[dict[str, Any]]) -> float:
    """Boot once, and add all marks, as seconds after network up, to ``reports``. Raises HarnessError."""
    try:
        ended = _booted(side)
    except qemu.EmulatorCrashed as error:
        sys.stderr.write(f"{side.name}: once more: {error}\n")
        ended = _booted(side)
    report = ended.reports[0] if ended.reports else {}
    times = report.get("times", {})
    if report.get("root", {}).get("mapped") != "root" or not {_NETWORK, _MAPPED} <= times.keys():
        shown = ended.console[-3000:].decode(errors="replace")
        raise HarnessError(f"{side.name}: no unattended boot ({ended.why}); its console:\n{shown}")
    begun = times[_NETWORK]
    sys.stderr.write(f"booted with {side.name}: {times[_MAPPED] - begun:.2f} s\n")
    reports.append({name: at - begun for name, at in timeline.marks_of(report).items()})
    return float(times[_MAPPED] - begun)


def _booted(side: Side) -> qemu.Ended:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=VM) as name:
        folder = Path(name)
        with side.served(folder), qemu.started(emulator(), side.hardware, folder) as machine:
            return machine.run(time.monotonic() + _SECONDS, lambda _: None)


def _where(reports: Sequence[dict[str, Any]]) -> str:
    """Medians of early boot's own marks."""
    return ", ".join(f"{name} {statistics.median(marks[name] for marks in reports):.2f}" for name in _STEPS)
