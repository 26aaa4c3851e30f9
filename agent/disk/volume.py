"""What binding, opening and unbinding share: finding our token, fetching its secret, trying keyslots from RAM."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from agent.core.config import VolumeConfig
from agent.core.errors import Conflict, HeaderTampered, NotBound
from agent.core.model import Secret
from agent.core.ports import Deadline
from agent.disk import compare, cryptsetup, keys, token
from agent.disk.device import Device
from agent.disk.header import Header
from agent.disk.ramcopy import ram_copy
from agent.disk.token import Binding

Fetch = Callable[[str, Deadline], Secret]
"""``fetch(policy_id, deadline)``: the secret that attestation releases."""
Ask = Callable[[], Secret]
"""Gives a passphrase that the admin knows; called at most once, when it is needed."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of the configuration and its open device, for the length of one operation."""

    config: VolumeConfig
    device: Device
    deadline: Deadline

    def opens(self, header: Header, slot: int, key: Secret) -> bool:
        """Whether ``key`` opens ``slot``, tried on a fresh copy in RAM that has no other slot."""
        with ram_copy(self.device, header, (slot,)) as copy:
            return cryptsetup.test_open(self.device, copy, slot, key, self.deadline)

    def is_ours(self, header: Header, binding: Binding, secret: Secret) -> bool:
        """I10: a slot is ours iff it opens with a passphrase derived from our secret (and looks like ours)."""
        if not compare.is_own_kind(header, binding.slot):
            return False
        with keys.passphrase(secret, header.uuid, binding) as key:
            return self.opens(header, binding.slot, key)

    def opener(self, header: Header, key: Secret, *, without: Collection[int] = ()) -> int | None:
        """A keyslot of the volume key that ``key`` opens, ``without`` some; None where there is none."""
        slots = (slot for slot in sorted(header.metadata.volume_digest.keyslots) if slot not in without)
        return next((slot for slot in slots if self.opens(header, slot, key)), None)

    def header(self) -> Header:
        """The header as it is now; where the configuration names a UUID, it must be this one.

        A link below /dev/disk/by-uuid only repeats what some disk said of itself. Raises HeaderRefused, HeaderTampered.
        """
        header = self.device.header()
        wanted = self.config.device.removeprefix("UUID=").lower()
        if self.config.device.startswith("UUID=") and header.uuid != wanted:
            raise HeaderTampered(f"{self.device.path} has UUID {header.uuid}, the configuration wants {wanted}")
        return header

    def edited(self, before: Header) -> Header:
        """The header read back after an edit; one that can't be read any more is an edit gone wrong."""
        after = self.header()
        if after.uuid != before.uuid:
            raise HeaderTampered(f"{self.device.path}: the volume was exchanged during the edit")
        return after

    def secret(self, binding: Binding, fetch: Fetch) -> Secret:
        """The secret ``binding`` was made from. The token proposes its policy, the configuration disposes (I4)."""
        if binding.key_id not in self.config.policy_ids:
            raise Conflict(
                f"volume {self.config.name} is bound with policy {binding.key_id}, which the configuration does "
                f"not name (policy_ids: {', '.join(self.config.policy_ids)})",
                hint="name it in policy_ids, unbind, then bind again",
                code="conflict.policy",
            )
        return keys.checked(fetch(binding.key_id, self.deadline))


def bound(volume: Volume, header: Header) -> Binding:
    """The finished binding. Raises NotBound, naming what is missing."""
    found = token.find(header.metadata)
    if found is None:
        problem = "has no tee-agent token"
    elif found[1].state == "pending":
        problem = "was not bound to the end"
    elif found[1].slot not in header.metadata.volume_digest.keyslots:
        problem = f"has a token, but its keyslot {found[1].slot} is gone"
    else:
        return found[1]
    name = volume.config.name
    raise NotBound(f"volume {name} ({volume.device.path}) {problem}", hint=f"run: tee-agent disk bind {name}")
