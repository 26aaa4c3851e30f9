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


UNKNOWN = Measured("unknown", "nobody looked")
"""Where no answer was asked for: as good as none."""


def require(measured: Measured, *, unmeasured_boot: bool) -> None:
    """Raises Denied unless the boot is measured, or somebody takes the risk by name."""
    if measured.state != "yes" and not unmeasured_boot:
        raise Denied(
            f"initramfs measured: {measured.state}: {measured.reason}. Whoever replaces an unmeasured initramfs gets "
            "this volume's key",
            hint="boot measured, and say what is booted ([measured] in the configuration; docs/prediction.md); or take "
            "the risk by name: --unmeasured-boot",
            code="denied.unmeasured-boot",
        )
