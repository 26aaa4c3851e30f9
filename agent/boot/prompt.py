"""A bound volume opened by a typed passphrase, when attestation failed and the configuration allows it (DESIGN.md, I9).

The header passes the same allow-list, before anything is asked; what is opened is the copy in RAM.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.boot.console import ask, say
from agent.core import ports
from agent.core.config import VolumeConfig
from agent.core.errors import Denied, TeeAgentError
from agent.core.model import Secret
from agent.disk import pin
from agent.disk.device import opened
from agent.disk.unlock import Opened, open_slot
from agent.disk.volume import Volume

TRIES = 3
Ask = Callable[[str, ports.Deadline], Secret]


def open_typed(
    config: VolumeConfig, cause: TeeAgentError, deadline: ports.Deadline, asking: Ask = ask
) -> tuple[Opened, bool]:
    """What was opened, and whether it is the pinned volume. ``cause`` is why attestation did not do it.

    Raises HeaderRefused, HeaderTampered, DiskError, PlatformError, DeadlineExceeded, Denied (three wrong ones).
    """
    with opened(config.device) as device:
        volume = Volume(config, device, deadline)
        header = volume.header()
        pinned = pin.verify(config, header)
        place = "" if f"volume {config.name}" in cause.message else f"volume {config.name}: "
        say(cause.code, place + cause.message, cause.hint)
        if not pinned:
            say("unpinned", f"volume {config.name}: nothing shows that this disk is yours (volume_key is not set)")
        for number in range(1, TRIES + 1):
            with asking(f"Passphrase of {config.name} (try {number} of {TRIES})", deadline) as typed:
                slot = volume.opener(header, typed) if len(typed) else None
                if slot is not None:
                    mapped, note = open_slot(volume, header, slot, typed)
                    return Opened(header.uuid, slot, "", mapped, note), pinned
            say("denied.passphrase", "this passphrase opens no keyslot")
    raise Denied(f"volume {config.name}: {TRIES} wrong passphrases", code="denied.passphrase")
