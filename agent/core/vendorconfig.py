"""The `[endorsements]` table of the configuration, as values; agent.core.config parses and checks it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EndorsementsConfig:
    """The vendors' services, for `tee-agent endorsements`. Without ``fetch`` nothing is asked of them unattended.

    Nothing about trust is here: whatever comes is verified under the pinned roots.
    """

    fetch: bool = False
    kds_url: str = "https://kdsintf.amd.com"
    pcs_url: str = "https://api.trustedservices.intel.com"
    proxy: str = ""
    ca_file: Path | None = None
    seconds: float = 120.0
    keep_days: int = 90
