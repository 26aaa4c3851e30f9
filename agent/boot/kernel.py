"""What evidence and mappings need of the kernel: modules, and configfs mounted."""

from __future__ import annotations

from pathlib import Path

from agent.core.errors import TeeAgentError
from agent.core.ports import Deadline
from agent.deadline import part
from agent.run import run

MODULES = ("configfs", "tsm", "tsm_report", "sev-guest", "tdx-guest", "dm_crypt")
"""Of two names for one thing (tsm is called tsm_report from Linux 6.17 on) one is always missing: no error."""
CONFIGFS = Path("/sys/kernel/config")
_SECONDS = 20.0
_MOUNTS = Path("/proc/self/mounts")


def prepare(deadline: Deadline) -> None:
    """Load and mount. What does not work is found, and explained, by whoever needs it: this raises nothing."""
    try:
        run(("modprobe", "-q", "-a", *MODULES), deadline=part(deadline, _SECONDS, "loading modules"))
        mounted = {line.split()[1] for line in _MOUNTS.read_text().splitlines()}
        if CONFIGFS.is_dir() and str(CONFIGFS) not in mounted:
            run(("mount", "-t", "configfs", "configfs", str(CONFIGFS)), deadline=part(deadline, _SECONDS, "mounting"))
    except (TeeAgentError, OSError):
        return
