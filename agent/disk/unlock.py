"""Opening a bound volume: header judged and authenticated in RAM, opened from there with our keyslot and no other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agent.core.config import VolumeConfig
from agent.core.errors import Conflict, DiskError
from agent.core.model import Secret
from agent.core.ports import Deadline
from agent.disk import cryptsetup, keys
from agent.disk.device import Device, opened
from agent.disk.header import Header
from agent.disk.ramcopy import ram_copy
from agent.disk.volume import Fetch, Volume, bound

MAPPER = Path("/dev/mapper")
MISC_DEVICES = Path("/proc/misc")


@dataclass(frozen=True, slots=True)
class Opened:
    """``mapped`` is the path of the mapping, "" when the slot was only tried; ``note`` says why then."""

    uuid: str
    slot: int
    key_id: str
    mapped: str = ""
    note: str = ""


def unlock(config: VolumeConfig, *, fetch: Fetch, deadline: Deadline) -> Opened:
    """Map the volume as /dev/mapper/NAME; an image file without device-mapper is test-opened instead, and says so.

    Raises NotBound, Conflict (mapped already, unknown policy), HeaderRefused, HeaderTampered, DiskError, SecretError,
    and what ``fetch`` raises.
    """
    if (MAPPER / config.name).is_symlink() or (MAPPER / config.name).exists():
        raise Conflict(f"{MAPPER / config.name} exists already: the volume is open", code="conflict.mapped")
    return _open(config, fetch, deadline, mapping=True)


def test(config: VolumeConfig, *, fetch: Fetch, deadline: Deadline) -> Opened:
    """All of ``unlock`` but the mapping. Raises as it does."""
    return _open(config, fetch, deadline, mapping=False)


def _open(config: VolumeConfig, fetch: Fetch, deadline: Deadline, *, mapping: bool) -> Opened:
    with opened(config.device) as device:
        volume = Volume(config, device, deadline)
        header = volume.header()
        binding = bound(volume, header)
        with volume.secret(binding, fetch) as secret:
            keys.verify_mac(secret, header, binding)
            with keys.passphrase(secret, header.uuid, binding) as key:
                mapped, note = open_slot(volume, header, binding.slot, key, mapping=mapping)
        return Opened(header.uuid, binding.slot, binding.key_id, mapped, note)


def open_slot(volume: Volume, header: Header, slot: int, key: Secret, *, mapping: bool = True) -> tuple[str, str]:
    """Map the volume with what ``key`` gives in ``slot`` of the validated header; its path, or why it has none.

    Raises DiskError.
    """
    device, name = volume.device, volume.config.name
    if mapping and _can_map(device):
        with ram_copy(device, header, (slot,)) as copy:
            cryptsetup.open_mapped(device, copy, slot, key, name=name, deadline=volume.deadline)
        return str(MAPPER / name), ""
    if not volume.opens(header, slot, key):
        raise DiskError(
            f"keyslot {slot} of a header that is in order does not open: its key material is damaged",
            hint=f"open the volume with its passphrase, then: tee-agent disk unbind {name}, and bind again",
            code="disk.slot",
        )
    return "", "test-opened, not mapped: no device-mapper" if mapping else "test-opened, not mapped"


def _can_map(device: Device) -> bool:
    """A block device is always mapped, or it is an error; an image file where the kernel has device-mapper."""
    return device.is_block or _has_device_mapper()


def _has_device_mapper() -> bool:
    # libdevmapper makes the node by itself, so its being there means nothing; opening it also loads the module.
    try:
        os.close(os.open(MAPPER / "control", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "device-mapper" in MISC_DEVICES.read_text().split()
    except PermissionError:
        return True
    except OSError:
        return False
    return True
