"""Whether this boot's initramfs and command line are part of what the hardware measured (DESIGN.md, boot chains)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.core.errors import Denied


@dataclass(frozen=True, slots=True)
class Measured:
    """``state``, and in ``reason`` why."""

    state: Literal["yes", "no", "unknown"]
    reason: str


def initramfs_measured() -> Measured:
    """What is known about this boot: nothing yet, for it takes a predicted launch digest to compare with."""
    return Measured(
        "unknown",
        "the launch measurement covers the firmware for certain; nothing here compares it with one predicted from "
        "this kernel, initramfs and command line",
    )


def require(measured: Measured, *, unmeasured_boot: bool) -> None:
    """Raises Denied unless the boot is measured, or somebody takes the risk by name."""
    if measured.state != "yes" and not unmeasured_boot:
        raise Denied(
            f"initramfs measured: {measured.state}: {measured.reason}. Whoever replaces an unmeasured initramfs gets "
            "this volume's key",
            hint="boot by direct kernel boot with hashes or a unified kernel image, then accept what can't be checked "
            "yet: --unmeasured-boot",
            code="denied.unmeasured-boot",
        )
