"""Binding: a keyslot of its own for the secret that attestation releases, and a token that authenticates the header.

Steps, each of which can be cut off and run again (I10): header read and judged; secret fetched; the pending token
names a free slot; the slot is added; it is test-opened from a fresh copy in RAM; the token gets its MAC; the header
is read back. After each edit the header must differ exactly as intended, else our slot is wiped.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass

from agent.core.config import VolumeConfig
from agent.core.errors import Conflict, Denied, DiskError, HeaderRefused, HeaderTampered, TeeAgentError
from agent.core.model import Secret
from agent.core.ports import Deadline
from agent.disk import compare, cryptsetup, edits, keys, token
from agent.disk.device import opened
from agent.disk.fields import MAX_SLOTS
from agent.disk.header import Header
from agent.disk.measured import UNKNOWN, Measured, require
from agent.disk.token import Binding
from agent.disk.volume import Ask, Fetch, Volume


@dataclass(frozen=True, slots=True)
class Bound:
    """What ``bind`` left: ``changed`` is False when the volume was bound already, and all of it verified."""

    uuid: str
    slot: int
    token: int
    key_id: str
    generation: int
    changed: bool


def bind(
    config: VolumeConfig,
    *,
    ask: Ask,
    fetch: Fetch,
    deadline: Deadline,
    boot: Measured = UNKNOWN,
    unmeasured_boot: bool = False,
) -> Bound:
    """Bind the volume to its first policy; complete a binding that was cut off; verify one that is there.

    ``ask`` gives a passphrase that opens the volume; ``boot`` says whether this boot is measured. Raises Denied
    (unmeasured boot, wrong passphrase), Conflict, HeaderRefused, HeaderTampered, DiskError, SecretError, and what
    ``fetch`` raises.
    """
    require(boot, unmeasured_boot=unmeasured_boot)
    with ExitStack() as stack:
        volume = Volume(config, stack.enter_context(opened(config.device, write=True)), deadline)
        _check_policy(volume, volume.header())
        secret = stack.enter_context(keys.checked(fetch(config.policy_ids[0], deadline)))
        volume.device.lock(deadline)
        return _Binder(volume, secret, _Existing(volume, ask, stack)).bind()


def _check_policy(volume: Volume, header: Header) -> None:
    found, wanted = token.find(header.metadata), volume.config.policy_ids[0]
    if found is not None and found[1].key_id != wanted and found[1].slot in header.metadata.keyslots:
        raise Conflict(
            f"volume {volume.config.name} is {found[1].state} with policy {found[1].key_id}, not with {wanted}",
            hint="unbind it first, or put its policy first in policy_ids",
            code="conflict.bound",
        )


class _Existing:
    """The admin's passphrase and the slot it opens: asked for once, only when an edit needs it."""

    def __init__(self, volume: Volume, ask: Ask, stack: ExitStack) -> None:
        self._volume, self._ask, self._stack = volume, ask, stack
        self._secret: Secret | None = None

    def secret(self) -> Secret:
        if self._secret is None:
            self._secret = self._stack.enter_context(self._ask())
        return self._secret

    def opener(self, header: Header, without: int) -> int:
        opener = self._volume.opener(header, self.secret(), without=(without,))
        if opener is None:
            raise Denied(
                f"the passphrase opens no keyslot of volume {self._volume.config.name}",
                hint="a key file counts byte by byte, its newline too",
                code="denied.passphrase",
            )
        return opener


class _Binder:
    def __init__(self, volume: Volume, secret: Secret, existing: _Existing) -> None:
        self._volume, self._secret, self._existing = volume, secret, existing
        self._device, self._deadline = volume.device, volume.deadline

    def bind(self) -> Bound:
        header = self._volume.header()
        _check_policy(self._volume, header)
        found = token.find(header.metadata)
        if found is not None and found[1].state == "bound" and found[1].slot in header.metadata.keyslots:
            return self._verified(header, *found)
        header, number, binding = self._pending(header, found)
        try:
            header = self._slot(header, binding)
            return self._finish(header, number, binding)
        except (HeaderTampered, HeaderRefused) as error:
            self._wipe(binding, error)
            raise

    def _verified(self, header: Header, number: int, binding: Binding) -> Bound:
        keys.verify_mac(self._secret, header, binding)
        if not self._volume.is_ours(header, binding, self._secret):
            raise DiskError(
                f"keyslot {binding.slot} is authentic by its MAC, but does not open: its key material is damaged, "
                "or it was being wiped",
                hint=f"run: tee-agent disk unbind {self._volume.config.name}, then bind again",
                code="disk.slot",
            )
        return self._result(header, number, binding, changed=False)

    def _pending(self, header: Header, found: tuple[int, Binding] | None) -> tuple[Header, int, Binding]:
        """A pending token whose slot is free or ours already."""
        wanted = self._volume.config.policy_ids[0]
        if found is not None and self._resumable(header, found[1], wanted):
            return header, *found
        # Before anything is written: a wrong passphrase must leave no trace.
        self._existing.opener(header, -1)
        number = found[0] if found else _free(header.metadata.tokens, "token")
        slot = _free(header.metadata.keyslots, "keyslot")
        binding = Binding(slot, wanted, token.next_generation(found))
        return edits.put(self._volume, header, number, binding), number, binding

    def _resumable(self, header: Header, binding: Binding, wanted: str) -> bool:
        if binding.state != "pending" or binding.key_id != wanted:
            return False
        return binding.slot not in header.metadata.keyslots or self._volume.is_ours(header, binding, self._secret)

    def _slot(self, header: Header, binding: Binding) -> Header:
        if binding.slot not in header.metadata.keyslots:
            opener = self._existing.opener(header, binding.slot)
            with keys.passphrase(self._secret, header.uuid, binding) as key:
                have, slot = self._existing.secret(), binding.slot
                cryptsetup.add_slot(
                    self._device, opener=opener, existing=have, number=slot, key=key, deadline=self._deadline
                )
            before, header = header, self._volume.edited(header)
            compare.verify(before, header, added=slot)
        if not self._volume.is_ours(header, binding, self._secret):
            raise HeaderTampered(f"the new keyslot {binding.slot} does not open: it is not what we wrote")
        return header

    def _finish(self, header: Header, number: int, binding: Binding) -> Bound:
        after, final = edits.finish(self._volume, self._secret, header, number, binding)
        return self._result(after, number, final, changed=True)

    def _wipe(self, binding: Binding, cause: TeeAgentError) -> None:
        """Take our slot back out of a header that is not what it should be; say so where that fails."""
        try:
            header = self._volume.header()
            if self._volume.is_ours(header, binding, self._secret):
                cryptsetup.kill_slot(self._device, binding.slot, self._existing.secret(), self._deadline)
        except TeeAgentError as error:
            cause.hint = f"{cause.hint}; our keyslot {binding.slot} may still be there ({error.message})"

    def _result(self, header: Header, number: int, binding: Binding, *, changed: bool) -> Bound:
        return Bound(header.uuid, binding.slot, number, binding.key_id, binding.generation, changed)


def _free(used: Collection[int], what: str) -> int:
    for number in range(MAX_SLOTS):
        if number not in used:
            return number
    raise DiskError(f"the header has no free {what}", hint="remove one that is not needed", code="disk.full")
