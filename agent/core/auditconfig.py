"""The `[audit]` table of the configuration: where the audit log is, and how much of it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core import checks
from agent.core.checks import At


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """All files together have at most ``max_bytes`` times ``keep_files`` + 1 bytes."""

    folder: Path = Path("/var/log/tee-agent")
    max_bytes: int = 16_777_216
    keep_files: int = 15


ROWS: Mapping[str, tuple[Callable[[Any, At], Any], str]] = {
    "folder": (checks.path, "of the audit log; the signer's user writes there"),
    "max_bytes": (checks.integer(65_536, 1 << 30), "of one file; then a new one begins"),
    "keep_files": (checks.integer(1, 10_000), "full ones that are kept beside the one in use"),
}
