"""One flipped bit, anywhere in a report, a certificate of its chain or the CRL, is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.core.errors import FormatError, VerificationError
from agent.core.model import Endorsements
from snp.verify import verify
from tests.unit.snp.hierarchy import NOW, anchor, crl, world

WORLD = replace(world(), crls=(crl(revoked=[5]),))
BLOB, BAG, ANCHORS = WORLD.signed(), WORLD.bag(), (anchor(),)


def flips(data: bytes, step: int = 1) -> Iterator[tuple[int, bytes]]:
    for bit in range(0, 8 * len(data), step):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(changed)


def accepted(blob: bytes, bag: Endorsements) -> bool:
    try:
        verify(blob, bag, ANCHORS, NOW)
    except (FormatError, VerificationError):
        return False
    return True


def test_the_whole_is_accepted() -> None:
    assert accepted(BLOB, BAG)


def test_every_bit_of_the_report() -> None:
    assert [bit for bit, blob in flips(BLOB) if accepted(blob, BAG)] == []


@pytest.mark.parametrize(("index", "step"), [(0, 1), (1, 7), (2, 7)], ids=["leaf", "issuer", "root"])
def test_every_bit_of_a_certificate(index: int, step: int) -> None:
    def bag(changed: bytes) -> Endorsements:
        certificates = list(BAG.certificates)
        certificates[index] = changed
        return replace(BAG, certificates=tuple(certificates))

    assert [bit for bit, der in flips(BAG.certificates[index], step) if accepted(BLOB, bag(der))] == []


def test_every_bit_of_the_crl() -> None:
    assert [bit for bit, der in flips(BAG.crls[0]) if accepted(BLOB, replace(BAG, crls=(der,)))] == []


def test_every_length_of_report_and_leaf() -> None:
    assert [size for size in range(len(BLOB)) if accepted(BLOB[:size], BAG)] == []
    leaf, *rest = BAG.certificates
    bags = (replace(BAG, certificates=(leaf[:size], *rest)) for size in range(len(leaf)))
    assert not any(accepted(BLOB, bag) for bag in bags)
