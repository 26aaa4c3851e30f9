"""Every parser that reads what strangers wrote: name to Target."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzz import on_core, on_devices, on_disk, on_formats, on_keys, on_rules, on_services, on_ssh, on_vendors
from tests.fuzz.contract import Target

TARGETS: Mapping[str, Target] = dict(
    sorted(
        {
            **on_vendors.TARGETS,
            **on_core.TARGETS,
            **on_devices.TARGETS,
            **on_disk.TARGETS,
            **on_formats.TARGETS,
            **on_keys.TARGETS,
            **on_rules.TARGETS,
            **on_services.TARGETS,
            **on_ssh.TARGETS,
        }.items()
    )
)
