"""Whether an event's data may be believed: only the digest was extended, so only what the digest covers is evidence.

Sources: TCG PC Client Platform Firmware Profile Specification 1.06, section 10.4 (which digest each type has); UEFI
2.10, section 38. What software adds to it: GRUB hashes the text behind its prefix and without the NUL, systemd-stub
the section's name in ASCII while the log has it in UCS-2, dstack type, name and payload with colons between.

The type of an event is never covered: a log may call a digest what it likes.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

from agent.core.errors import FormatError
from tdx import event as ev
from tdx.event import Event
from tdx.eventread import Cursor


class Coverage(StrEnum):
    """How far the digest speaks for the data."""

    DATA = "data covered"
    PART = "value covered, its name is not"
    NONE = "data not covered"
    DIFFERS = "data differs from the digest"
    NOT_EXTENDED = "not extended"

    @property
    def measured(self) -> bool:
        """Whether the data, or the value in it, is what was measured."""
        return self in (Coverage.DATA, Coverage.PART)


ALWAYS_COVERED = frozenset(
    {
        ev.SEPARATOR,
        ev.ACTION,
        ev.EFI_ACTION,
        ev.VARIABLE_DRIVER_CONFIG,
        ev.VARIABLE_AUTHORITY,
        ev.VARIABLE_BOOT,
        ev.VARIABLE_BOOT2,
        ev.GPT,
        ev.DSTACK_RUNTIME,
    }
)
"""Types whose digest is of the data (EV_EFI_VARIABLE_BOOT: of the variable's value): another digest is a false log."""


def coverage(event: Event) -> Coverage:
    """What the digest says about the data."""
    if not event.extended:
        return Coverage.NOT_EXTENDED
    if event.digest in _digests(event):
        return Coverage.DATA
    value = _value(event)
    if value is not None and _sha384(value) == event.digest:
        return Coverage.PART
    return Coverage.DIFFERS if event.kind in ALWAYS_COVERED and not _ambiguous(event) else Coverage.NONE


def _ambiguous(event: Event) -> bool:
    """Colons part dstack's hashed text: with one in the name, it has more than one reading."""
    return event.kind == ev.DSTACK_RUNTIME and ":" in event.name


def _digests(event: Event) -> list[bytes]:
    """Digests that cover all the data says, and the name that a JSON log has."""
    data = event.data
    if _ambiguous(event):
        return []
    if event.kind == ev.DSTACK_RUNTIME:
        return [_sha384(event.kind.to_bytes(4, "little") + b":" + event.name.encode() + b":" + data)]
    found = [_sha384(data)]
    if event.kind == ev.IPL:
        found += [_sha384(data.rstrip(b"\0")), _sha384(data.replace(b"\0", b"") + b"\0")]
    return found


def _value(event: Event) -> bytes | None:
    """The part of the data that some types have hashed by itself."""
    if event.kind == ev.IPL and b": " in event.data:
        return event.data.split(b": ", 1)[1].rstrip(b"\0")
    if event.kind == ev.VARIABLE_BOOT:
        try:
            return variable(event.data)[2]
        except FormatError:
            return None
    return None


def variable(data: bytes) -> tuple[str, bytes, bytes]:
    """UEFI_VARIABLE_DATA: vendor GUID, name (UCS-2) and value. Raises Truncated."""
    cursor = Cursor(data, "UEFI_VARIABLE_DATA")
    guid = cursor.guid("vendor GUID")
    name_size, value_size = cursor.number(8, "name length") * 2, cursor.number(8, "value length")
    return guid, cursor.take(name_size, "name"), cursor.take(value_size, "value")


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()
