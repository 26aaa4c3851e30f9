"""Unbinding: our keyslot and our token, and nothing else, once another passphrase is known to open the volume (I10).

A slot is known as ours by opening with our passphrase, or by the header's MAC, which covers its description: so a
wipe that was cut off after the key material is recognised and completed. A pending binding gets its MAC first.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.config import VolumeConfig
from agent.core.errors import Denied, NotBound
from agent.core.model import Secret
from agent.core.ports import Deadline
from agent.disk import compare, cryptsetup, edits, keys, token
from agent.disk.device import opened
from agent.disk.header import Header
from agent.disk.token import Binding
from agent.disk.volume import Ask, Fetch, Volume


@dataclass(frozen=True, slots=True)
class Unbound:
    """``slot`` is the keyslot that was wiped; None where it was gone already, or was never ours."""

    uuid: str
    slot: int | None
    token: int


def unbind(config: VolumeConfig, *, ask: Ask, fetch: Fetch, deadline: Deadline) -> Unbound:
    """Wipe our keyslot, then remove our token. ``ask`` gives a passphrase of another keyslot, which is tried first.

    Where the slot is gone already, neither secret nor passphrase is needed. Raises NotBound, Denied (no other slot
    opens), Conflict (policy not configured), HeaderRefused, HeaderTampered, DiskError, and what ``fetch`` raises.
    """
    with opened(config.device, write=True) as device:
        volume = Volume(config, device, deadline)
        device.lock(deadline)
        header = volume.header()
        found = token.find(header.metadata)
        if found is None:
            raise NotBound(f"volume {config.name} ({device.path}) has no tee-agent token: nothing to unbind")
        number, binding = found
        wiped = None
        if binding.slot in header.metadata.keyslots:
            with volume.secret(binding, fetch) as secret:
                if _is_ours(volume, header, binding, secret):
                    header, wiped = _wipe(volume, secret, header, number, binding, ask=ask), binding.slot
        edits.remove(volume, header, number)
        return Unbound(header.uuid, wiped, number)


def _is_ours(volume: Volume, header: Header, binding: Binding, secret: Secret) -> bool:
    if binding.state == "pending":
        return volume.is_ours(header, binding, secret)
    keys.verify_mac(secret, header, binding)
    return True


def _wipe(volume: Volume, secret: Secret, header: Header, number: int, binding: Binding, *, ask: Ask) -> Header:
    slot = binding.slot
    with ask() as other:
        if volume.opener(header, other, without=(slot,)) is None:
            raise Denied(
                f"the passphrase opens no other keyslot of volume {volume.config.name}: without keyslot {slot} it "
                "could be lost",
                hint="add a passphrase first: cryptsetup luksAddKey",
                code="denied.passphrase",
            )
        if binding.state == "pending":
            header, _ = edits.finish(volume, secret, header, number, binding)
        cryptsetup.kill_slot(volume.device, slot, other, volume.deadline)
    after = volume.edited(header)
    compare.verify(header, after, killed=slot)
    return after
