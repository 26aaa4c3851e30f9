"""What early boot leaves for `tee-agent status` and the journal: one file in /run, which outlives the switch of root.

No secrets in it: reason codes, times, volumes. Times are seconds of the kernel's monotonic clock, which starts with
the kernel.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agent import __version__
from agent.core.errors import TeeAgentError

PATH = Path("/run/tee-agent/boot.json")
MAX_BYTES = 256 * 1024
_STAT = Path("/proc/self/stat")
_START_FIELD = 19  # of proc(5) /proc/pid/stat, starttime, counted from after the name


@dataclass(slots=True)
class Outcome:
    """One volume. ``how`` is "attestation", "passphrase", or "" while it is closed; ``code`` is why attestation failed.

    ``devno`` is "major:minor" of the mapping, "" where there is none. ``pinned``: a typed passphrase opened the volume
    that the configuration pins, and no other.
    """

    name: str
    device: str
    uuid: str = ""
    how: str = ""
    policy_id: str = ""
    slot: int = -1
    devno: str = ""
    pinned: bool = False
    code: str = ""
    message: str = ""
    hint: str = ""

    def failed(self, error: TeeAgentError) -> None:
        self.code, self.message, self.hint = error.code, error.message, error.hint


@dataclass(slots=True)
class Report:
    """The whole boot. ``outcome`` is "running", "unlocked", "idle" (nothing to open) or "stopped"."""

    agent: str = __version__
    outcome: str = "running"
    code: str = ""
    message: str = ""
    hint: str = ""
    timeline: dict[str, float] = field(default_factory=dict)
    volumes: list[Outcome] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    root: list[str] = field(default_factory=list)
    """The volumes that root was found to lie on."""

    def mark(self, name: str) -> None:
        """``name`` happened now; of several times the last stays."""
        self.timeline[name] = round(time.monotonic(), 3)

    def started(self) -> None:
        """When the kernel made this process: before the interpreter loaded anything."""
        fields = _STAT.read_text().rpartition(")")[2].split()
        self.timeline["agent"] = round(int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK"), 3)

    def stopped(self, error: TeeAgentError) -> None:
        self.outcome, self.code, self.message, self.hint = "stopped", error.code, error.message, error.hint
        self.save()

    def save(self) -> None:
        """Replace the file (0644). A full or missing /run is no reason to stop a boot."""
        temporary = PATH.with_suffix(".new")
        try:
            PATH.parent.mkdir(mode=0o755, exist_ok=True)
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
            temporary.chmod(0o644)
            temporary.replace(PATH)
        except OSError:
            return

    @classmethod
    def load(cls) -> Report:
        """What the step before left, an empty report without one."""
        document = read()
        return cls() if document is None else _parsed(document)


def read(path: Path | None = None) -> dict[str, Any] | None:
    """The fields of Report as they stand in the file (PATH); None where there is none, or something else."""
    try:
        with (path or PATH).open("rb") as file:
            return asdict(_parsed(json.loads(file.read(MAX_BYTES))))
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _parsed(document: dict[str, Any]) -> Report:
    """Raises TypeError, LookupError or ValueError for what is no report."""
    volumes = [Outcome(**volume) for volume in document["volumes"]]
    timeline = {name: float(at) for name, at in dict(document["timeline"]).items()}
    return Report(**{**document, "volumes": volumes, "timeline": timeline})
