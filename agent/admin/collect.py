"""`tee-agent evidence collect`: the evidence in a file, and what its reader needs to recompute REPORT_DATA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import settings
from agent.admin import files
from agent.admin.evidence import Collected, collect
from agent.deadline import Deadline

MODE = 0o644
"""Evidence is no secret."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was collected, and where it is. ``auxblob`` is None where the host passes no certificates on."""

    made: Collected
    out: Path
    auxblob: Path | None

    def to_json(self) -> dict[str, Any]:
        made = self.made
        return {
            "tee": made.tee.value,
            "version": made.version,
            "purpose": "collect",
            "nonce": made.nonce.hex(),
            "boot_id": made.scope.boot_id,
            "audience": made.scope.audience,
            "report_data": made.fields["report_data"],
            "file": str(self.out),
            "bytes": len(made.evidence.blob),
            "auxblob": str(self.auxblob) if self.auxblob else None,
            "provider": made.evidence.provider,
        }

    def lines(self) -> Iterator[str]:
        made = self.made
        yield f"evidence: {made.tee}, version {made.version}, {len(made.evidence.blob)} bytes in {self.out}"
        if self.auxblob:
            yield f"certificates: {len(made.evidence.auxblob)} bytes in {self.auxblob}"
        yield f"nonce: {made.nonce.hex()}"
        yield f"boot id: {made.scope.boot_id}"
        yield f"audience: {made.scope.audience or '(none)'}"
        yield f"REPORT_DATA: {made.fields['report_data']}"


def collect_to(path: Path, nonce: bytes, out: Path, auxblob: Path | None) -> Written:
    """Fresh evidence over ``nonce`` (16 to 64 bytes) into ``out``, the host's certificate table into ``auxblob``.

    ``path`` is the configuration's. Raises ConfigError, UsageError, PlatformError, FirmwareError, BindingMismatch;
    nothing is written then.
    """
    config = settings.load_or_defaults(path)
    made = collect(config, nonce, Deadline(config.evidence.quote_seconds, "evidence"))
    table = auxblob if auxblob and made.evidence.auxblob else None
    if table:
        files.replace(table.absolute(), made.evidence.auxblob, MODE)
    files.replace(out.absolute(), made.evidence.blob, MODE)
    return Written(made, out, table)
