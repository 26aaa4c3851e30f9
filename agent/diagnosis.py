"""Why there is no evidence interface, in words: kernel option, configfs, module, device, permission. Reads only."""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import DeviceMissing, NoTee, PermissionMissing, PlatformError

DEVICES = {"sev-guest": "amd-sev-snp", "tdx_guest": "intel-tdx"}
"""Device nodes of the guest drivers, and what they mean."""
MODULES = ("tsm", "tsm_report", "sev_guest", "tdx_guest")
_OPTION = re.compile(r"^(?:# )?(CONFIG_TSM_REPORTS(?:=[ym])?)( is not set)?$", re.MULTILINE)
_MAX_CONFIG = 4 << 20
_OR_DEVICE = '; or evidence.interface = "auto", which takes the device itself'


@dataclass(frozen=True, slots=True)
class Host:
    """Where the system's folders are; other ones in tests only. ``release`` is uname -r."""

    dev: Path = Path("/dev")
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    boot: Path = Path("/boot")
    release: str = os.uname().release

    def devices(self) -> dict[str, str]:
        """Guest device nodes that exist, and the TEE each belongs to."""
        return {name: tee for name, tee in DEVICES.items() if (self.dev / name).exists()}

    def modules(self) -> list[str]:
        """Loaded (or built-in) modules that matter here."""
        return [name for name in MODULES if (self.sys / "module" / name).is_dir()]

    def configfs(self) -> bool:
        """Is configfs mounted?"""
        mounts = _text(self.proc / "self" / "mounts").splitlines()
        return any(line.split(" ")[2:3] == ["configfs"] for line in mounts)

    def kernel_option(self) -> str:
        """CONFIG_TSM_REPORTS of the running kernel: "y", "m", "n" (also: not known to it), or "unknown"."""
        config = _text(self.boot / f"config-{self.release}") or _gunzipped(self.proc / "config.gz")
        if not config:
            return "unknown"
        match = _OPTION.search(config)
        return match[1][-1] if match and not match[2] else "n"


def without_root(root: Path, host: Host) -> PlatformError:
    """The error for a missing ``root``: the first cause found, from the kernel upwards."""
    option, devices = host.kernel_option(), host.devices()
    if option == "n" or (option == "unknown" and devices and host.configfs()):
        return _no_option(root, devices)
    if not host.configfs():
        return DeviceMissing(
            f"{root} is not there: configfs is not mounted",
            hint="mount -t configfs configfs /sys/kernel/config",
            code="platform.device-missing.configfs",
        )
    if devices:
        return DeviceMissing(
            f"{root} is not there, though /dev/{next(iter(devices))} is: the kernel's report module is not loaded",
            hint="modprobe tsm (tsm_report from Linux 6.16 on)" + _OR_DEVICE,
            code="platform.device-missing.module",
        )
    return NoTee(
        f"no TEE: {root} is not there, and neither are /dev/sev-guest and /dev/tdx_guest",
        hint="in a confidential VM: modprobe sev-guest, or modprobe tdx-guest. Elsewhere there is no evidence",
    )


def _no_option(root: Path, devices: dict[str, str]) -> PlatformError:
    kind = DeviceMissing if devices else NoTee
    there = f"/dev/{next(iter(devices))} is there, but {root} is not" if devices else f"no TEE: {root} is not there"
    return kind(
        f"{there}: this kernel has no CONFIG_TSM_REPORTS",
        hint="use Linux 6.7 or newer with that option (Debian 13 has it)" + (_OR_DEVICE if devices else ""),
        code=f"{kind.code}.kernel",
    )


def without_provider(root: Path, host: Host) -> NoTee:
    """The error for mkdir's ENXIO: the interface is there, but no TEE driver stands behind it."""
    loaded = [name for name in ("sev_guest", "tdx_guest") if name in host.modules()]
    if loaded:
        return NoTee(
            f"{root}: module {loaded[0]} is loaded, but gives no evidence",
            hint="dmesg says why: the host may not have passed the secrets page, or the TDX module is too old",
            code="platform.no-tee.provider",
        )
    return NoTee(
        f"{root}: the kernel has no provider of evidence: this is no confidential VM, or its module is not loaded",
        hint="modprobe sev-guest (AMD), or modprobe tdx-guest (Intel)",
        code="platform.no-tee.provider",
    )


def without_permission(root: Path) -> PermissionMissing:
    """The error for a refused mkdir."""
    return PermissionMissing(
        f"{root}: only root may ask for evidence here",
        hint="run as root, or ask the daemon over its socket" if os.geteuid() else "is it mounted read-only?",
    )


def _text(path: Path, most: int = _MAX_CONFIG) -> str:
    try:
        with path.open("rb") as file:
            return file.read(most).decode("utf-8", "replace")
    except OSError:
        return ""


def _gunzipped(path: Path) -> str:
    try:
        with gzip.open(path, "rb") as file:
            return file.read(_MAX_CONFIG).decode("utf-8", "replace")
    except (OSError, EOFError):
        return ""
