"""Every way to be wrong by one bit, or to end early."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def flips(data: bytes, places: Iterable[int] | None = None) -> Iterator[tuple[int, bytes]]:
    """Bit number and ``data`` with that bit turned over; ``places`` are the bit numbers (all of them)."""
    changed = bytearray(data)
    for bit in range(8 * len(data)) if places is None else places:
        changed[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(changed)
        changed[bit // 8] ^= 1 << bit % 8


def one_per_byte(start: int, end: int) -> Iterator[int]:
    """A bit number for each byte of the range; which bit it is goes round."""
    return (8 * at + at % 8 for at in range(start, end))


def cuts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Size and ``data`` cut to it, from nothing to all but the last byte."""
    return ((size, data[:size]) for size in range(len(data)))
