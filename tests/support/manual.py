"""Renders tee-agent.toml(5)'s tables from the configuration's own table, so that the manual can't drift.

``python -m tests.support.manual`` writes them into the page.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from agent.core.auditconfig import AuditConfig
from agent.core.config import SECTIONS, BootConfig, EvidenceConfig, TasConfig, VolumeConfig
from agent.core.daemonconfig import DaemonConfig
from agent.core.measuredconfig import MeasuredConfig
from agent.core.sealconfig import SealingConfig, SecretConfig
from agent.core.vendorconfig import EndorsementsConfig

PAGE = Path(__file__).resolve().parents[2] / "packaging" / "man" / "tee-agent.toml.5.md"
END = "<!-- end -->"
CLASSES: dict[str, Any] = {
    "tas": TasConfig,
    "evidence": EvidenceConfig,
    "endorsements": EndorsementsConfig,
    "measured": MeasuredConfig,
    "volume": VolumeConfig,
    "boot": BootConfig,
    "sealing": SealingConfig,
    "secrets": SecretConfig,
    "daemon": DaemonConfig,
    "audit": AuditConfig,
}


def default(section: str, key: str, *, required: bool) -> str:
    found = {field.name: field.default for field in dataclasses.fields(CLASSES[section])}[key]
    if required:
        return "required"
    if found is dataclasses.MISSING or found is None or found in ((), ""):
        return "none"
    if isinstance(found, bool):
        return f"`{str(found).lower()}`"
    value = ", ".join(found) if isinstance(found, tuple) else f"{found:g}" if isinstance(found, float) else str(found)
    return f"`{value}`"


def table(section: str) -> str:
    rows = [
        f"| `{name}` | {key.help} | {default(section, name, required=key.required)} |"
        for name, key in SECTIONS[section].items()
    ]
    return "\n".join(["| key | meaning | default |", "|---|---|---|", *rows])


def rendered(text: str) -> str:
    """The page with each table, between its two markers, made anew."""
    for section in SECTIONS:
        marker = f"<!-- table {section} -->\n"
        before, _, rest = text.partition(marker)
        text = f"{before}{marker}{table(section)}\n{rest[rest.index(END) :]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
