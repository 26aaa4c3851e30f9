"""Two copies, one header: which is chosen, and that no damaged byte gets through."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import HeaderRefused
from agent.disk import binary
from tests.support.luks import IMAGE_BYTES, header_bytes, load, sample

FIXED, DOCUMENT = sample()
WHOLE = header_bytes(FIXED, DOCUMENT)
SIZE = FIXED.size
TEXT_BYTES = len(binary.parse(WHOLE[:SIZE], "primary")[1])


def refusal(data: bytes, size: int = IMAGE_BYTES) -> HeaderRefused:
    with pytest.raises(HeaderRefused) as caught:
        load(data, size)
    return caught.value


def spoiled(data: bytes, at: int, bits: int = 1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= bits
    return bytes(changed)


def flips(start: int) -> Iterator[tuple[int, int]]:
    """Every bit of the fixed part's fields, a bit of every byte of the JSON, some of the padding."""
    yield from ((start + at, bit) for at in range(512) for bit in range(8))
    yield from ((start + at, at % 8) for at in range(4096, 4096 + TEXT_BYTES + 8))
    yield from ((start + at, at % 8) for at in [*range(512, 4096, 101), *range(4096 + TEXT_BYTES + 8, SIZE, 101)])


def resealed(data: bytes, start: int, change: Callable[[bytearray], None]) -> bytes:
    """One copy changed, with a checksum that fits."""
    whole = bytearray(data)
    part = whole[start : start + SIZE]
    change(part)
    part[448:512] = binary.checksum(bytes(part))
    whole[start : start + SIZE] = part
    return bytes(whole)


def test_round_trip() -> None:
    header = load(WHOLE)
    assert (header.binary, header.metadata.document, header.intact) == (FIXED, DOCUMENT, True)
    assert header.uuid == FIXED.uuid


def test_checksum_is_the_specification_s() -> None:
    copy = WHOLE[:SIZE]
    assert copy[448:480] == hashlib.sha256(copy[:448] + bytes(64) + copy[512:]).digest()


def test_every_truncation_is_refused() -> None:
    # A device of n bytes that holds the beginning of a whole header.
    used = 4096 + TEXT_BYTES + 8
    zeros = [*range(used, SIZE, 61), *range(SIZE + used, 2 * SIZE, 61)]
    for length in [*range(used), *range(SIZE, SIZE + used), *zeros, 2 * SIZE]:
        with pytest.raises(HeaderRefused):
            load(WHOLE[:length], length)


@pytest.mark.parametrize("start", [0, SIZE], ids=["primary", "secondary"])
def test_every_flipped_bit_leaves_the_other_copy(start: int) -> None:
    for at, bit in flips(start):
        header = load(spoiled(WHOLE, at, 1 << bit))
        assert (header.intact, header.metadata.document) == (False, DOCUMENT)


@pytest.mark.parametrize("start", [0, SIZE], ids=["only primary", "only secondary"])
def test_every_flipped_bit_of_the_only_copy_is_refused(start: int) -> None:
    alone = WHOLE[:SIZE] if start == 0 else bytes(SIZE) + WHOLE[SIZE:]
    assert load(alone).intact is False
    for at, bit in flips(start):
        with pytest.raises(HeaderRefused):
            load(spoiled(alone, at, 1 << bit))


def test_the_newest_valid_copy_counts() -> None:
    older = header_bytes(replace(FIXED, sequence=6), {**DOCUMENT, "tokens": {}})
    assert load(WHOLE[:SIZE] + older[SIZE:]).metadata.tokens
    assert load(older[:SIZE] + WHOLE[SIZE:]).metadata.tokens
    assert load(older[:SIZE] + WHOLE[SIZE:]).intact is False


def test_two_copies_of_one_age_that_differ_are_refused() -> None:
    other = header_bytes(FIXED, {**DOCUMENT, "tokens": {}})
    assert refusal(WHOLE[:SIZE] + other[SIZE:]).code == "disk.header.copies"
    renamed = header_bytes(replace(FIXED, uuid=FIXED.uuid.replace("4", "5")), DOCUMENT)
    assert refusal(WHOLE[:SIZE] + renamed[SIZE:]).code == "disk.header.copies"


@pytest.mark.parametrize("size", binary.SIZES)
def test_every_size_is_found_without_its_primary(size: int) -> None:
    document = {**DOCUMENT, "config": {"json_size": str(size - 4096), "keyslots_size": str((1 << 24) - 8192)}}
    document |= {"keyslots": {}, "tokens": {}, "digests": {"0": {**DOCUMENT["digests"]["0"], "keyslots": []}}}
    document["segments"] = {"0": {**DOCUMENT["segments"]["0"], "offset": str(1 << 25)}}
    whole = header_bytes(replace(FIXED, size=size), document)
    assert load(whole, 1 << 26).intact
    assert load(bytes(size) + whole[size:], 1 << 26).binary.size == size


def test_a_copy_that_lies_elsewhere_is_no_copy() -> None:
    moved = bytes(0x8000) + WHOLE[SIZE:]
    assert refusal(moved).code == "disk.header.magic"


@pytest.mark.parametrize(
    ("at", "value", "code"),
    [
        (0, b"ext4..", "magic"),
        (6, b"\x00\x03", "version"),
        (8, (12345).to_bytes(8, "big"), "size"),
        (8, (1 << 40).to_bytes(8, "big"), "size"),
        (16, bytes(8), "padding"),
        (16, b"\xff" * 8, "padding"),
        (72, b"sha1".ljust(32, b"\0"), "checksum"),
        (168, b"not a uuid".ljust(40, b"\0"), "uuid"),
        (168, b"../../../../etc/passwd".ljust(40, b"\0"), "uuid"),
        (256, (0x4000).to_bytes(8, "big"), "offset"),
        (264, b"x", "padding"),
        (512, b"x", "padding"),
        (SIZE - 1, b"x", "padding"),
    ],
)
def test_fields_of_the_fixed_part(at: int, value: bytes, code: str) -> None:
    def change(part: bytearray) -> None:
        part[at : at + len(value)] = value

    assert refusal(resealed(WHOLE[:SIZE], 0, change)).code == f"disk.header.{code}"


def test_text_without_an_end_is_refused() -> None:
    def change(part: bytearray) -> None:
        part[4096:] = b" " * (SIZE - 4096)

    assert refusal(resealed(WHOLE[:SIZE], 0, change)).code == "disk.header.padding"


def test_luks1_is_refused_by_name() -> None:
    error = refusal(b"LUKS\xba\xbe\x00\x01" + bytes(584))
    assert (error.code, "LUKS1" in error.message, "convert" in error.hint) == ("disk.header.luks1", True, True)


def test_data_beyond_the_device_is_refused() -> None:
    assert refusal(WHOLE, 16 << 20).code == "disk.header.bounds"
    assert load(WHOLE, (16 << 20) + 1)
    fixed = {**DOCUMENT, "segments": {"0": {**DOCUMENT["segments"]["0"], "size": str((16 << 20) + 512)}}}
    assert refusal(header_bytes(FIXED, fixed)).code == "disk.header.bounds"


def test_metadata_that_does_not_fit_is_not_built() -> None:
    with pytest.raises(HeaderRefused, match="does not fit"):
        binary.build(FIXED, b" " * (SIZE - 4096), "primary")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=700), st.integers(0, 4096), st.booleans())
def test_garbage_gives_only_typed_errors(garbage: bytes, at: int, seal: bool) -> None:
    def change(part: bytearray) -> None:
        part[at : at + len(garbage)] = garbage

    copy = bytearray(WHOLE[:SIZE])
    if seal:
        copy = bytearray(resealed(WHOLE[:SIZE], 0, change))
    else:
        change(copy)
    try:
        load(bytes(copy))
    except HeaderRefused as error:
        assert error.message
