"""Where the simulator may run: never beside a genuine TEE, as root, on a mount point that is free."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from agent.core.errors import Conflict, DeviceMissing, PermissionMissing, PlatformError
from sim.fuse import FSNAME

FUSE = Path("/dev/fuse")
MNT_DETACH = 2
_MARKS = {
    "dev/sev-guest": "the SEV-SNP guest device",
    "dev/tdx_guest": "the TDX guest device",
    "sys/devices/system/cpu/sev/vmpl": "the kernel's SEV-SNP guest interface",
}
_PROBE = "tee-agent-simulator-probe"


class GenuineTee(PlatformError):
    """Simulated evidence beside the real thing would be a trap."""

    code = "platform.genuine-tee"


def refuse_genuine(root: Path = Path("/")) -> None:
    """Raises GenuineTee where this machine is a confidential VM. ``root`` is for tests."""
    found = [f"/{path} ({what})" for path, what in _MARKS.items() if (root / path).exists()]
    if not found and "tdx_guest" in _cpu_flags(root / "proc/cpuinfo"):
        found = ["/proc/cpuinfo (CPU flag tdx_guest)"]
    report = root / "sys/kernel/config/tsm/report"
    if not found and _has_provider(report, _mounts(root / "proc/self/mountinfo")):
        found = [f"{report} (configfs-tsm with a provider)"]
    if found:
        raise GenuineTee(
            f"this machine has a genuine TEE: {', '.join(found)}",
            hint="the simulator runs on ordinary machines only; use the genuine evidence here",
        )


def require_privileges(device: Path = FUSE) -> None:
    """``device``: what the kernel's side of the simulator is reached by. Raises PermissionMissing, DeviceMissing."""
    if os.geteuid():
        raise PermissionMissing("the simulator shows a device of root's: run it as root")
    if not device.exists():
        raise DeviceMissing(f"{device} is missing", hint=f"modprobe {device.name}; in a container, pass the device in")


def prepare_mountpoint(path: Path) -> bool:
    """Make sure that ``path`` is a directory without a live simulator on it; True if it was made here.

    A stale mount of ours (its process is dead) is detached. Raises Conflict.
    """
    mounted = _mounts(Path("/proc/self/mountinfo")).get(str(path.resolve() if _reachable(path) else path.absolute()))
    if mounted == FSNAME:
        if _reachable(path):
            raise Conflict(f"{path}: another simulator serves it", hint="stop that one, or choose another --mount")
        unmount(path)
    if path.is_dir():
        return False
    if path.exists():
        raise Conflict(f"{path} is not a directory")
    path.mkdir(mode=0o755, parents=True)
    return True


def unmount(path: Path) -> None:
    """Detach at once, whoever still has files open. Not being mounted is no error."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), MNT_DETACH) and ctypes.get_errno() not in {errno.EINVAL, errno.ENOENT}:
        number = ctypes.get_errno()
        raise PlatformError(f"{path}: unmounting failed: {os.strerror(number)}")


def _reachable(path: Path) -> bool:
    """False where the mount's server is dead (ENOTCONN)."""
    try:
        path.stat()
    except OSError as error:
        return error.errno != errno.ENOTCONN
    return True


def _mounts(mountinfo: Path) -> dict[str, str]:
    """Source by mount point, the topmost one, from mountinfo (proc(5)); empty where there is none."""
    if not mountinfo.exists():
        return {}
    rows = (line.split() for line in mountinfo.read_text().splitlines())
    return {row[4].replace("\\040", " "): row[row.index("-") + 2] for row in rows if "-" in row}


def _has_provider(report: Path, mounts: dict[str, str]) -> bool:
    """Whether configfs-tsm there makes entries: the kernel answers ENXIO where no TEE driver is registered."""
    if not report.is_dir() or mounts.get(str(report)) == FSNAME:
        return False
    probe = report / _PROBE
    try:
        probe.mkdir()
    except FileExistsError:
        return (probe / "provider").exists()
    except OSError:
        return False
    try:
        return (probe / "provider").exists()
    finally:
        probe.rmdir()


def _cpu_flags(cpuinfo: Path) -> list[str]:
    if not cpuinfo.exists():
        return []
    lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")]
    return lines[0].split() if lines else []
