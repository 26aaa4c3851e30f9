"""What evidence and mappings need of the kernel: modules, and configfs mounted."""

from __future__ import annotations

from pathlib import Path

from agent.boot.child import ended
from agent.core.errors import TeeAgentError
from agent.core.ports import Deadline
from agent.deadline import part
from agent.run import Child, run, spawn

MODULES = ("configfs", "tsm", "tsm_report", "sev-guest", "tdx-guest", "dm_crypt", "algif_skcipher")
"""Of two names for one thing (tsm is called tsm_report from Linux 6.17 on) one is always missing: no error."""
CONFIGFS = Path("/sys/kernel/config")
_MOUNTS = Path("/proc/self/mounts")
_SECONDS = 20.0


class Modules:
    """Loads them in the background. Nothing here raises: what is missing is found, and explained, by who needs it."""

    def __init__(self) -> None:
        self._child: Child | None = None
        try:
            self._child = spawn(("modprobe", "-q", "-a", *MODULES))
        except TeeAgentError:
            return

    def ready(self, deadline: Deadline) -> None:
        """Wait until they are loaded, and mount configfs if nobody did."""
        try:
            if self._child is not None:
                ended(self._child, part(deadline, _SECONDS, "loading modules"))
            mounted = {line.split()[1] for line in _MOUNTS.read_text().splitlines()}
            if CONFIGFS.is_dir() and str(CONFIGFS) not in mounted:
                argv = ("mount", "-t", "configfs", "configfs", str(CONFIGFS))
                run(argv, deadline=part(deadline, _SECONDS, "mounting configfs"))
        except (TeeAgentError, OSError):
            return
