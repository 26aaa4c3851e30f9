"""Two disks that claim one identity: refused by name, before anything is opened (DESIGN.md, I11).

A host can attach a disk with a cloned UUID and hope that the wrong one is found first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from agent.core.errors import Conflict, DeadlineExceeded, DiskError
from agent.core.ports import Deadline
from agent.disk.binary import SIZES
from agent.disk.device import locate
from agent.run import run

BLOCK = Path("/sys/class/block")
DEV = Path("/dev")
BY_TAG = ("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=")
_MAGICS = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")
_UUID = slice(168, 208)  # LUKS2 On-Disk Format Specification, section 2; the same in LUKS1
_POLL_SECONDS = 0.1
_NOTHING_FOUND = 2  # blkid(8)


def wait_for(spec: str, deadline: Deadline) -> Path:
    """The device of ``spec``, waited for. Raises DiskError (``disk.missing``) when it does not come."""
    while True:
        try:
            return locate(spec)
        except DiskError as error:
            try:
                deadline.sleep(_POLL_SECONDS)
            except DeadlineExceeded:
                raise error from None


def one_luks(uuid: str, block: Path = BLOCK, dev: Path = DEV) -> None:
    """Raises Conflict when several devices have a LUKS header with ``uuid``."""
    claim = [str(device) for device in _leaves(block, dev) if uuid.encode("ascii") in set(_luks_uuids(device))]
    if len(claim) > 1:
        raise _twins(f"the LUKS UUID {uuid}", claim)


def none_yet(root: str, deadline: Deadline) -> None:
    """Raises Conflict when a device answers to ``root`` by its tag (``UUID=...``) before any volume is open.

    Root lies inside a volume, so whatever has its identity now is a copy.
    """
    found = _tagged(root, deadline)
    if found:
        raise Conflict(
            f"root={root} lies in an encrypted volume, but {', '.join(found)} has that identity before it is opened",
            hint="a disk was attached that pretends to be root: remove it",
            code="conflict.twin",
        )


def one_root(root: str, deadline: Deadline) -> None:
    """Raises Conflict when several devices answer to ``root`` by its tag."""
    found = _tagged(root, deadline)
    if len(found) > 1:
        raise _twins(root, found)


def _tagged(root: str, deadline: Deadline) -> list[str]:
    tag = root if root.startswith(BY_TAG) else _by_link(root)
    if not tag:
        return []
    done = run(("blkid", "-c", "/dev/null", "-o", "device", "-t", tag), deadline=deadline)
    if done.returncode not in (0, _NOTHING_FOUND):
        raise DiskError(f"blkid -t {tag}: exit status {done.returncode}", code="disk.blkid")
    return done.stdout.decode("ascii", "replace").split()


def _by_link(root: str) -> str:
    """``/dev/disk/by-uuid/X`` says the same as ``UUID=X``; "" for other paths."""
    path = Path(root)
    return f"{path.parent.name.removeprefix('by-').upper()}={path.name}" if path.parent.parent == DEV / "disk" else ""


def _twins(what: str, devices: list[str]) -> Conflict:
    return Conflict(
        f"{' and '.join(devices)} both have {what}", hint="remove the one that is a copy", code="conflict.twin"
    )


def _leaves(block: Path, dev: Path) -> Iterator[Path]:
    """Block devices that no other is built on: the halves of a mirror are not copies of it."""
    for entry in sorted(block.iterdir()):
        holders = entry / "holders"
        if not (holders.is_dir() and any(holders.iterdir())):
            yield dev / entry.name.replace("!", "/")


def _luks_uuids(device: Path) -> Iterator[bytes]:
    """The UUIDs of all LUKS headers on ``device``, sound or not; none where it can't be read."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    try:
        for offset in (0, *SIZES):
            start = os.pread(fd, _UUID.stop, offset)
            if start.startswith(_MAGICS):
                yield start[_UUID].rstrip(b"\0")
    except OSError:
        return
    finally:
        os.close(fd)
