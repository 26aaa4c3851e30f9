"""What a volume that somebody names on the command line really is: its UUID, its key's pin, its name in crypttab."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agent.core import crypttab
from agent.core.config import VolumeConfig
from agent.core.errors import UsageError
from agent.disk import pin
from agent.disk.device import opened

CRYPTTAB = Path("/etc/crypttab")
DEV = Path("/dev")
_LINKS = {"UUID": "by-uuid", "PARTUUID": "by-partuuid", "LABEL": "by-label", "PARTLABEL": "by-partlabel"}


def entries(path: Path = CRYPTTAB) -> tuple[crypttab.Entry, ...]:
    """The system's crypttab; nothing where it can't be read."""
    try:
        return crypttab.parse(path.read_text(errors="replace"))
    except OSError:
        return ()


def settled(volume: VolumeConfig, table: tuple[crypttab.Entry, ...]) -> VolumeConfig:
    """``volume`` as it should stand in the configuration: by UUID where the system knows it by that, its key pinned.

    The disk as it is now is taken for the right one: who sets a machine up has to know it. Raises DiskError,
    HeaderRefused, UsageError (crypttab has another name for it).
    """
    with opened(volume.device) as device:
        header = device.header()
        path, is_block = device.path, device.is_block
    for entry in table:
        if entry.name != volume.name and meant(entry.source) == path:
            raise UsageError(
                f"/etc/crypttab calls {path} {entry.name}, not {volume.name}: early boot goes by that name",
                hint=f"--volume {entry.name}={volume.device}",
                code="usage.volume",
            )
    by_uuid = f"UUID={header.uuid}"
    named = by_uuid if is_block and meant(by_uuid) == path else volume.device
    return replace(volume, device=named, volume_key=pin.of(header))


def left_out(volumes: tuple[VolumeConfig, ...], table: tuple[crypttab.Entry, ...]) -> Iterator[crypttab.Entry]:
    """The entries of crypttab for LUKS volumes with no volume of that name. Random-key swap is none."""
    names = {volume.name for volume in volumes}
    for entry in table:
        if entry.name not in names and not {"swap", "tmp", "plain"} & set(entry.options):
            yield entry


def meant(source: str) -> Path | None:
    """The device that crypttab's ``source`` means now; None where there is none."""
    tag, separator, value = source.partition("=")
    if separator and tag in _LINKS:
        value = value.strip('"').lower() if tag.endswith("UUID") else value.strip('"')
        path = DEV / "disk" / _LINKS[tag] / value
    else:
        path = Path(source)
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
