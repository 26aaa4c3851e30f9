"""What the configured volumes look like from outside: no secret, no network, nothing but the header read.

Nothing here is authenticated: a token is what the disk says. ``tee-agent disk test`` verifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agent.core.config import VolumeConfig
from agent.core.errors import HeaderRefused, TeeAgentError
from agent.disk import pin, token
from agent.disk.device import opened
from agent.disk.header import Header

State = Literal["bound", "pending", "stale", "not bound", "refused", "unreadable"]


@dataclass(frozen=True, slots=True)
class Listed:
    """One volume. ``slot`` is the one our token names, ``foreign_slots`` are all others; -1 and () where unknown.

    ``stale`` means that the token's keyslot is gone. ``intact`` is False when one header copy needs mending.
    ``problem`` says why a header was refused or could not be read, ``problem_code`` is its stable code. ``volume_key``
    is what would pin this volume in the configuration (agent.disk.pin).
    """

    name: str
    device: str
    state: State
    uuid: str = ""
    slot: int = -1
    foreign_slots: tuple[int, ...] = ()
    key_id: str = ""
    generation: int = 0
    intact: bool = True
    problem: str = ""
    problem_code: str = ""
    volume_key: str = ""


def list_volumes(configs: Sequence[VolumeConfig]) -> tuple[Listed, ...]:
    """Every configured volume, in the configuration's order. Raises nothing of its own."""
    return tuple(_listed(config) for config in configs)


def _listed(config: VolumeConfig) -> Listed:
    try:
        with opened(config.device) as device:
            return _described(config, device.header())
    except HeaderRefused as error:
        return Listed(config.name, config.device, "refused", problem=error.message, problem_code=error.code)
    except TeeAgentError as error:
        return Listed(config.name, config.device, "unreadable", problem=error.message, problem_code=error.code)


def _described(config: VolumeConfig, header: Header) -> Listed:
    slots = sorted(header.metadata.keyslots)
    volume_key = f"sha256:{pin.of(header).hex()}"
    found = token.find(header.metadata)
    if found is None:
        seen = Listed(config.name, config.device, "not bound", header.uuid, -1, tuple(slots), volume_key=volume_key)
        return replace(seen, intact=header.intact)
    binding = found[1]
    state: State = binding.state if binding.state == "pending" or binding.slot in slots else "stale"
    return Listed(
        config.name,
        config.device,
        state,
        header.uuid,
        binding.slot,
        tuple(slot for slot in slots if slot != binding.slot),
        binding.key_id,
        binding.generation,
        header.intact,
        volume_key=volume_key,
    )
