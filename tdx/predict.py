"""RTMR1 and RTMR2 of the next boot: this boot's log with the digests exchanged that will be others.

Pure. RTMR1 has the images that the firmware loads, RTMR2 what they are started with; what else is in the log stays as
it is from boot to boot (separators, actions, boot loaders). So: the log must replay to the RTMRs of now; every part
that changes must be found in it, in a form we know; exchanged and replayed, it gives the RTMRs of the next boot. What
can't be shown to be right is not predicted. MRTD and RTMR0 (firmware, its configuration) are taken to stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent.core.canonical import shown
from agent.core.errors import Conflict
from tdx import event as events_of
from tdx.event import Event
from tdx.eventlog import compare, replay
from tdx.eventread import text_of
from tdx.predictboot import COMMAND_LINE, INITRD, KERNEL, MEASURED, UNIFIED, Parts, Slot

PREDICTED = (1, 2)
LAUNCH = (0, 1, 2)
"""RTMR3 is the running system's own: it may hold what no boot log has."""
INITRD_TAG, OPTIONS_TAG = 0x8F3B22EC, 0x8F3B22ED
"""Event ids of Linux's EFI stub (drivers/firmware/efi/libstub)."""
_GRUB = ("grub_cmd: linux", "grub_cmd: initrd", "kernel_cmdline: ")


@dataclass(frozen=True, slots=True)
class Found:
    """Event ``number`` measured ``part``, handed on in ``form``."""

    number: int
    register: int
    slot: Slot
    part: str
    form: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """``rtmrs``: 1 and 2, 48 bytes each. ``found`` says which events were exchanged, ``kept`` counts the others."""

    rtmrs: Mapping[int, bytes]
    found: tuple[Found, ...]
    kept: int


def explain(events: Sequence[Event], running: Parts) -> tuple[Found, ...]:
    """The events of RTMR1 and RTMR2 that measured these parts."""
    found = (_match(event, running) for event in events if event.register in PREDICTED and event.extended)
    return tuple(one for one in found if one is not None)


def predict(events: Sequence[Event], live: Mapping[int, bytes], running: Parts, coming: Parts) -> Prediction:
    """RTMR1 and RTMR2 when ``coming`` boots in place of ``running``. ``live``: RTMR0 to 2 of now, 48 bytes each.

    An initrd that ``running`` does not know is exchanged where its place in the log leaves one way only. Raises
    Conflict (``conflict.prediction``) with the reason when this can't be predicted.
    """
    require_replay(events, live)
    _require_alike(running, coming)
    own = [event for event in events if event.register in PREDICTED and event.extended]
    found = {event.number: _match(event, running) or _by_place(event, running, coming) for event in own}
    exchanged = tuple(one for one in found.values() if one is not None)
    _require_seen(exchanged, running, coming)
    for event in own:
        if found[event.number] is None:
            _require_lasting(event, running, coming)
    digests = {one.number: _digest(coming, one) for one in exchanged}
    values = replay(replace(event, digest=digests.get(event.number, event.digest)) for event in events)
    return Prediction({index: values[index] for index in PREDICTED}, exchanged, len(own) - len(exchanged))


def require_replay(events: Sequence[Event], live: Mapping[int, bytes]) -> None:
    """Raises Conflict unless the log replays to RTMR0, 1 and 2 of ``live``."""
    for register in compare(events, {index: live[index] for index in LAUNCH}):
        if not register.ok:
            raise unpredictable(f"the event log does not replay to RTMR{register.index} of now: {register.detail}")


def mentions_initrd(events: Sequence[Event]) -> bool:
    """Whether an event says of itself that it measured an initrd: the file, the section, what the kernel got."""
    slots = ((slot_of(event), event) for event in events)
    return any(slot is Slot.INITRD or (slot is Slot.CONTENT and "initr" in _text(event)) for slot, event in slots)


def unpredictable(why: str, hint: str = "") -> Conflict:
    """The error of everything here: the reason, and what to do instead."""
    return Conflict(
        f"the next boot can't be predicted: {why}",
        hint=hint or "boot it with a passphrase, then draft the policy again",
        code="conflict.prediction",
    )


def slot_of(event: Event) -> Slot | None:
    """What an event of this kind in this register can have measured."""
    if event.register == 1:
        return Slot.IMAGE if event.kind == events_of.BOOT_APPLICATION else None
    if event.register == 2 and event.kind == events_of.IPL:
        return Slot.CONTENT
    if event.register == 2 and event.kind == events_of.EVENT_TAG:
        tag = int.from_bytes(event.data[:4], "little")
        return {INITRD_TAG: Slot.INITRD, OPTIONS_TAG: Slot.OPTIONS}.get(tag)
    return None


def _text(event: Event) -> str:
    return text_of(event.data) or ""


def _match(event: Event, parts: Parts) -> Found | None:
    slot = slot_of(event)
    if slot is None:
        return None
    for (where, part), forms in parts.digests.items():
        if where is slot:
            for form, digest in forms.items():
                if digest == event.digest and _named(event, slot, part):
                    return Found(event.number, event.register or 0, slot, part, form)
    return None


def _named(event: Event, slot: Slot, part: str) -> bool:
    """Sections of an image are told apart by their names too: two may have the same content."""
    return slot is not Slot.CONTENT or not part.startswith(".") or _text(event) == part


def _by_place(event: Event, running: Parts, coming: Parts) -> Found | None:
    """An initrd that is not there any more: its place is enough where it is measured as the file it is."""
    key = (Slot.INITRD, INITRD)
    forms = coming.digests.get(key, {})
    if slot_of(event) is not Slot.INITRD or key in running.digests or len(forms) != 1:
        return None
    return Found(event.number, event.register or 0, *key, form=next(iter(forms)))


def _digest(coming: Parts, one: Found) -> bytes:
    forms = coming.digests.get((one.slot, one.part), {})
    if one.form not in forms:
        raise unpredictable(f"event {one.number} measured the {one.part} ({one.form}); the next boot has none such")
    return forms[one.form]


def _require_alike(running: Parts, coming: Parts) -> None:
    if running.what != coming.what:
        raise unpredictable(f"this boot is {running.what}, the next one {coming.what}: other events will be there")
    if running.sections != coming.sections:
        differing = ", ".join(sorted(running.sections ^ coming.sections))
        raise unpredictable(f"the images differ in their sections: {differing}")


def _changed(part: str, running: Parts, coming: Parts) -> bool:
    """Whether the next boot has another ``part``, or this boot's is not known."""
    keys = {key for key in (*running.digests, *coming.digests) if key[1] == part}
    return any(running.digests.get(key) != coming.digests.get(key) for key in keys)


def _require_seen(found: Sequence[Found], running: Parts, coming: Parts) -> None:
    """What changes must be in the log, or its change would go unseen."""
    wanted = (KERNEL, INITRD, COMMAND_LINE) if coming.what == "direct" else (UNIFIED,)
    seen = {one.part for one in found}
    for part in wanted:
        if part not in seen and _changed(part, running, coming):
            raise unpredictable(
                f"the log of this boot does not have the {part} that was given as the running one",
                hint="was the file exchanged since the boot? or the firmware hands it on in a form that is not known",
            )


def _require_lasting(event: Event, running: Parts, coming: Parts) -> None:
    """An event that no part explains stays as it is; raises Conflict where it will not."""
    slot, text = slot_of(event), _text(event)
    if slot is Slot.INITRD or (slot is Slot.OPTIONS and _changed(COMMAND_LINE, running, coming)):
        raise unpredictable(f"event {event.number} measured another {slot} than the one given as the running one")
    if slot is not Slot.CONTENT:
        return
    if text in MEASURED and event.digest != hashlib.sha384(text.encode() + b"\0").digest():
        raise unpredictable(f"event {event.number} measured a section {text} that the running image does not have so")
    other = any(_changed(part, running, coming) for part in (KERNEL, COMMAND_LINE))
    if text.startswith(_GRUB) and other:
        raise unpredictable("GRUB measures its commands, which name kernel and command line")
    if text.startswith(("/", "(")) and any(word in text for word in ("vmlinuz", "initrd", "initramfs")):
        raise unpredictable(
            f"event {event.number} measured {shown(text)}, which is not the file given as the running one"
        )
