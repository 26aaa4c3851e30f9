"""Before root is entered: does all that is mounted there lie on volumes opened in this boot (DESIGN.md, I11)?

Measured code asks this, by the kernel's own view in /sys and /proc. A plain disk with a cloned UUID, an LV of a
volume group that somebody else made, a network root: all end here, whatever the command line or udev was made to
believe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent import settings
from agent.boot import early, twins
from agent.boot.console import say
from agent.boot.report import Report
from agent.core.errors import VerificationError
from agent.deadline import Deadline
from agent.hardening import harden

ROOT = "/root"
"""Where initramfs-tools mounts it (``rootmnt``)."""
SYS = Path("/sys")
MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = frozenset({"configfs", "devpts", "devtmpfs", "mqueue", "proc", "ramfs", "securityfs", "sysfs", "tmpfs"})
"""Without a device: the kernel's own. They may be mounted below root, never as root."""
_DEPTH = 8  # of devices on devices
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of proc(5) /proc/pid/mountinfo. ``devno`` is "major:minor"; major 0 is no block device."""

    devno: str
    point: str
    kind: str
    source: str


def run(report: Report) -> None:
    """Raises VerificationError unless root is on our volumes; Conflict when several disks claim to be root."""
    harden(lock_memory=False)
    config = settings.load()
    line_root = early.command_line(config)
    if report.outcome == "idle" or not config.boot.root_check:
        return
    twins.one_root(line_root, Deadline(_SECONDS, "looking for root's twins"))
    ours = {outcome.devno: outcome.name for outcome in report.volumes if outcome.devno}
    report.root = sorted(judge(mounts(MOUNTS.read_text(errors="replace")), ours, SYS))
    report.mark("root")
    say("ok", f"root lies on {', '.join(report.root)}, opened in this boot")


def mounts(text: str, root: str = ROOT) -> list[Mount]:
    """What is mounted at ``root`` and below."""
    found = []
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        devno, _, point = head.split()[2:5]
        kind, source = tail.split()[:2]
        if point == root or point.startswith(root + "/"):
            found.append(Mount(devno, point, kind, source))
    return found


def judge(found: list[Mount], ours: Mapping[str, str], sys: Path) -> set[str]:
    """The names of the volumes (``ours``: name by devno) that root and all below it lie on.

    Raises VerificationError (``verify.root``) for anything that lies elsewhere, and for no root at all.
    """
    if not any(mount.point == ROOT for mount in found):
        raise _refused(f"nothing is mounted at {ROOT}")
    names = set()
    for mount in found:
        if mount.kind in IN_MEMORY and mount.point != ROOT:
            continue
        for devno in _devices(mount, sys):
            names |= _volumes(mount, devno, ours, sys, _DEPTH)
    return names


def _devices(mount: Mount, sys: Path) -> list[str]:
    """The block devices of a mount; btrfs has no number of its own, but names its devices."""
    if not mount.devno.startswith("0:"):
        return [mount.devno]
    if mount.kind == "btrfs":
        name = Path(mount.source).resolve().name
        for pool in sorted((sys / "fs" / "btrfs").glob("*/devices")):
            members = sorted(member.name for member in pool.iterdir())
            if name in members:
                return [(sys / "class" / "block" / member / "dev").read_text().strip() for member in members]
    raise _refused(f"{mount.point} is a {mount.kind} of {mount.source}, on no block device")


def _volumes(mount: Mount, devno: str, ours: Mapping[str, str], sys: Path, depth: int) -> set[str]:
    """The volumes below ``devno``: itself, or what all it is built on lies on (LVM, mirrors)."""
    if devno in ours:
        return {ours[devno]}
    below = list(_below(sys / "dev" / "block" / devno)) if depth else []
    if not below:
        raise _refused(f"{mount.point} lies on device {_name(sys, devno)}, which was not opened in this boot")
    return set().union(*(_volumes(mount, lower, ours, sys, depth - 1) for lower in below))


def _below(device: Path) -> Iterator[str]:
    """What a device is built on; a partition is built on its disk."""
    if (device / "partition").exists():
        yield (device.resolve().parent / "dev").read_text().strip()
        return
    slaves = device / "slaves"
    if slaves.is_dir():
        for slave in sorted(slaves.iterdir()):
            yield (slave / "dev").read_text().strip()


def _name(sys: Path, devno: str) -> str:
    return f"{(sys / 'dev' / 'block' / devno).resolve().name} ({devno})"


def _refused(problem: str) -> VerificationError:
    return VerificationError(
        problem,
        hint="root must lie on a [[volume]] that early boot opens; a disk that pretends to be root must be removed",
        code="verify.root",
    )
