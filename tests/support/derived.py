"""A daemon whose quoter finds a simulated secure processor where the guest driver's device would be.

Where the kernel has CUSE, the simulator makes that device. Here its ioctl is answered in the quoter's own process, and
all that is above the ioctl is what ships: ``python -c LAUNCH STATE ARGUMENTS`` is ``tee-agent ARGUMENTS``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agent.cli import main
from agent.core.config import EvidenceConfig
from agent.core.model import Tee
from agent.daemon import child, quoter
from agent.device.sev import SevGuestSource
from agent.quotelock import QuoteLock
from sim.faults import Faults, FaultyProvider
from sim.sev_guest import SevGuest
from tests.support.cuse import kernel
from tests.support.simulator import machine

LAUNCH = "import sys; from tests.support import derived; sys.exit(derived.launch())"
_PLUG = "import sys; sys.path.insert(0, sys.argv[1]); from tests.support import derived; derived.plug({!r}); "
_SECRET = b"what the chip keeps to itself..."


def launch() -> int:
    """The supervisor, which starts every role with the chip at hand."""
    state = sys.argv.pop(1)
    vars(child)["_BOOT"] = _PLUG.format(state) + child._BOOT
    return main()


def plug(state: str) -> None:
    """In a role's process: the way to the chip's keys leads to the simulated one, whose PKI is in ``state``."""

    def source(config: EvidenceConfig, _: Tee) -> SevGuestSource:
        faults = Faults()
        plugged = kernel(SevGuest(FaultyProvider(machine("snp", Path(state)), faults), faults, _SECRET))

        def ioctl(fd: int, command: int, argument: bytearray) -> None:
            plugged.ioctl(fd, command, argument)

        lock = QuoteLock(config.lock_file)
        return SevGuestSource(Path("/dev/null"), lock, vmpl_file=Path(state) / "no-vmpl", ioctl=ioctl)

    vars(quoter)["derived_key_source"] = source
