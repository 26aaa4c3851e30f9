"""Quote bytes: writer and parser mirror each other, every damage has its own error and never a foreign one."""

from __future__ import annotations

import random
import struct

import pytest

from agent.core.errors import FormatError, Oversized, Truncated, UnsupportedVersion
from tdx import abi
from tests.unit.tdx.world import World


def quote(version: int = 5, kind: type[abi.Body] = abi.Body15) -> bytes:
    world = World()
    world.header, world.kind = {"version": version}, kind
    return world.quote()


@pytest.mark.parametrize(("version", "kind"), [(4, abi.Body), (5, abi.Body), (5, abi.Body15)])
def test_round_trip(version: int, kind: type[abi.Body]) -> None:
    data = quote(version, kind)
    parsed = abi.parse(data)
    assert parsed.data == parsed.encode() == data
    assert type(parsed.body) is kind
    assert parsed.fields()["body_type"] == {(4, abi.Body): None, (5, abi.Body): 2, (5, abi.Body15): 3}[version, kind]
    assert parsed.signed + parsed.data[len(parsed.signed) :] == data
    assert len(parsed.signed) == (48 if version == 4 else 54) + kind.SIZE


@pytest.mark.parametrize("padding", [0, 1, 70, 8000])
def test_zero_padding_is_accepted_and_counted(padding: int) -> None:
    data = quote()
    parsed = abi.parse(data + bytes(padding))
    assert (parsed.data, parsed.trailing) == (data, padding)


def test_other_trailing_bytes_are_refused() -> None:
    for trailing in (b"\1", bytes(69) + b"\1"):
        with pytest.raises(Oversized, match="unexpected data after the"):
            abi.parse(quote() + trailing)
    with pytest.raises(Oversized, match="are allowed"):
        abi.parse(quote() + bytes(abi.MAX_QUOTE))


@pytest.mark.parametrize("version", [0, 1, 2, 3, 6, 0x0400, 0xFFFF])
def test_other_versions(version: int) -> None:
    data = struct.pack("<H", version) + quote()[2:]
    with pytest.raises(UnsupportedVersion, match=f"version {version}$"):
        abi.parse(data)


def _with(at: int, value: bytes) -> bytes:
    data = bytearray(quote())
    data[at : at + len(value)] = value
    return bytes(data)


SIGNATURE_SIZE = 54 + 648
CERTIFICATION = SIGNATURE_SIZE + 4 + 128
DAMAGED: list[tuple[str, type[FormatError], str, int, bytes]] = [
    ("header-reserved", FormatError, "reserved bytes", 8, b"\1"),
    ("sgx-body", UnsupportedVersion, "body type 1", 48, b"\1\0"),
    ("td10-type", FormatError, "has 584 bytes, the quote says 648", 48, b"\2\0"),
    ("body-size", FormatError, "the quote says 649", 50, struct.pack("<I", 649)),
    ("huge", Truncated, "signature data length is larger", SIGNATURE_SIZE, b"\xf0\xff\xff\xff"),
    ("nothing-signed", Oversized, "unexpected data after", SIGNATURE_SIZE, bytes(4)),
    ("pck-chain-outside", FormatError, "type 5 is not supported, 6", CERTIFICATION, b"\5\0"),
    ("certification-longer", Truncated, "announced", CERTIFICATION + 2, b"\xff\xff\xff\xff"),
    ("certification-shorter", Oversized, "announced", CERTIFICATION + 2, b"\1\0\0\0"),
    ("qe-reserved", FormatError, "QE report: reserved bytes", CERTIFICATION + 6 + 20, b"\1"),
    ("auth-longer", Truncated, "authentication data has 65535", CERTIFICATION + 6 + 448, b"\xff\xff"),
    ("encrypted-ppid", FormatError, "type 3 is not supported, 5", CERTIFICATION + 6 + 450 + 32, b"\3\0"),
    ("chain-longer", Truncated, "announced", CERTIFICATION + 6 + 450 + 34, b"\xff\xff\xff\0"),
    ("chain-shorter", Oversized, "announced", CERTIFICATION + 6 + 450 + 34, b"\1\0\0\0"),
]


@pytest.mark.parametrize(("error", "message", "at", "value"), [pytest.param(*c[1:], id=c[0]) for c in DAMAGED])
def test_damaged(error: type[FormatError], message: str, at: int, value: bytes) -> None:
    with pytest.raises(error, match=message) as caught:
        abi.parse(_with(at, value))
    assert type(caught.value) is error
    assert caught.value.record


def test_every_truncation_is_truncated() -> None:
    for data in (quote(), quote(4, abi.Body)):
        for size in range(len(data)):
            with pytest.raises(Truncated):
                abi.parse(data[:size])


def test_every_flipped_bit_is_refused_or_read_back() -> None:
    data = quote()
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            parsed = abi.parse(bytes(changed))
        except FormatError:
            continue
        assert parsed.encode() == bytes(changed)


def test_noise_never_raises_anything_else() -> None:
    source = random.Random(5)
    data = quote()
    for _ in range(2000):
        noise = bytearray(data)
        for _ in range(source.randrange(1, 40)):
            noise[source.randrange(len(noise))] = source.randrange(256)
        start = source.choice([0, 0, 0, source.randrange(len(noise))])
        try:
            abi.parse(bytes(noise[start:]))
        except FormatError:
            continue


def test_debug_is_a_field_not_an_error() -> None:
    world = World()
    world.body = {"td_attributes": b"\1" + bytes(7)}
    assert world.verify().fields["td_debug"] is True
    assert World().verify().fields["td_debug"] is False
