"""The header that cryptsetup gets to see: written anew from validated values, with the named keyslots only.

Pure. Nothing of the device's own header bytes is passed on except values that the allow-list knows, so a parser of
cryptsetup's that reads them otherwise than ours has no room. Tokens and foreign keyslots are left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from agent.disk import binary
from agent.disk.header import Header, Read
from agent.disk.keyslot import Keyslot


def size(header: Header) -> int:
    """Bytes of the whole copy: both header copies and the keyslot area."""
    return header.metadata.keyslots_end


def parts(header: Header, slots: Collection[int], read: Read) -> Iterator[tuple[int, bytes]]:
    """``(offset, bytes)`` of everything in the copy that is not zero; keyslot areas are read from the device."""
    text = json.dumps(document(header, slots), separators=(",", ":")).encode("ascii")
    yield 0, binary.build(header.binary, text, "primary")
    yield header.binary.size, binary.build(header.binary, text, "secondary")
    for number in slots:
        yield _material(header.metadata.keyslots[number], read)


def document(header: Header, slots: Collection[int]) -> dict[str, Any]:
    """The copy's JSON: the segment, its digest, the configuration, and ``slots``."""
    digest = header.metadata.volume_digest
    kept: Mapping[str, Any] = header.metadata.document
    opening = [str(number) for number in digest.keyslots if number in slots]
    return {
        "keyslots": {number: kept["keyslots"][number] for number in opening},
        "tokens": {},
        "segments": kept["segments"],
        "digests": {str(digest.number): {**digest.document, "keyslots": opening}},
        "config": kept["config"],
    }


def _material(slot: Keyslot, read: Read) -> tuple[int, bytes]:
    return slot.area.start, read(slot.area.start, len(slot.area))
