"""What cryptsetup gets to see: our slot, the volume's digest and segment, and nothing that a host slipped in."""

from __future__ import annotations

import json
from typing import Any

from agent.disk import binary, image
from agent.disk.header import load
from tests.support.luks import IMAGE_BYTES, header_bytes, keyslot, sample, sample_header


def crowded(document: dict[str, Any]) -> None:
    document["keyslots"]["7"] = keyslot(7)
    document["digests"]["1"] = {**document["digests"]["0"], "keyslots": ["7"], "segments": []}
    document["tokens"]["3"] = {"type": "luks2-keyring", "keyslots": ["0"], "key_description": "from the host"}


def test_only_the_named_slot_is_left() -> None:
    document = image.document(sample_header(crowded), (1,))
    _, original = sample()
    assert document == {
        "keyslots": {"1": original["keyslots"]["1"]},
        "tokens": {},
        "segments": original["segments"],
        "digests": {"0": {**original["digests"]["0"], "keyslots": ["1"]}},
        "config": original["config"],
    }


def test_slots_of_other_keys_are_never_in_it() -> None:
    document = image.document(sample_header(crowded), (0, 7))
    assert list(document["keyslots"]) == ["0"]
    assert list(document["digests"]) == ["0"]


def test_the_copy_is_a_valid_header_of_its_own() -> None:
    header = sample_header(crowded)
    copy = bytearray(image.size(header))

    def read(offset: int, size: int) -> bytes:
        return bytes([offset // 4096 % 251]) * size

    for offset, data in image.parts(header, (1,), read):
        copy[offset : offset + len(data)] = data

    def device(offset: int, size: int) -> bytes:
        return bytes(copy[offset : offset + size])

    again = load(device, IMAGE_BYTES)
    assert again.intact
    assert again.binary == header.binary
    assert list(again.metadata.keyslots) == [1]
    area = header.metadata.keyslots[1].area
    assert copy[area.start : area.stop] == read(area.start, len(area))
    assert not any(copy[2 * header.binary.size : area.start])
    assert not any(copy[area.stop :])


def test_odd_spelling_does_not_survive() -> None:
    # Same values, other bytes: what cryptsetup parses is our own spelling.
    fixed, document = sample()
    text = json.dumps(document, indent=1).replace('"luks2"', '"\\u006cuks2"').encode()
    whole = header_bytes(fixed, text)
    header = load(lambda offset, size: whole[offset : offset + size].ljust(size, b"\0"), IMAGE_BYTES)
    (_, primary), *_ = image.parts(header, (1,), lambda offset, size: bytes(size))
    assert b"\\u006c" not in binary.parse(primary, "primary")[1]
