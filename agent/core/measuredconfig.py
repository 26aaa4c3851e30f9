"""The `[measured]` table of the configuration: what this machine is started with, for predicting what is measured.

Nothing about trust is here: a wrong value makes a prediction that no machine will match.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.core import checks
from agent.core.checks import At


@dataclass(frozen=True, slots=True)
class MeasuredConfig:
    """``vcpus`` None, ``vcpu_type`` "": as this machine has them. ``guest_features`` is SEV_FEATURES (64 bits)."""

    ovmf: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    uki: Path | None = None
    vcpus: int | None = None
    vcpu_type: str = ""
    vmm: Literal["qemu", "ec2", "gce"] = "qemu"
    guest_features: int = 1
    event_log: Path | None = None


ROWS: Mapping[str, tuple[Callable[[Any, At], Any], str]] = {
    "ovmf": (checks.path, "SNP: copy of the firmware image that the host starts"),
    "kernel": (checks.path, "kernel of the next boot (else: the newest in /boot)"),
    "initrd": (checks.path, "its initramfs (else: that of the newest kernel)"),
    "cmdline": (checks.text(4096), "its command line (else: this boot's)"),
    "uki": (checks.path, "unified kernel image of the next boot (else: the newest in EFI/Linux)"),
    "vcpus": (checks.integer(1, 4096), "SNP: processors (else: as many as there are)"),
    "vcpu_type": (checks.text(32), "SNP: their model, as EPYC-v4 (else: what they say of themselves)"),
    "vmm": (checks.choice("qemu", "ec2", "gce"), "SNP: who starts the machine"),
    "guest_features": (checks.integer(0, (1 << 63) - 1), "SNP: SEV_FEATURES of the processors"),
    "event_log": (checks.path, "TDX: CCEL area or JSON log of this boot (else: the kernel's)"),
}
