"""Reports of every version and both layouts, and the host's certificate table: each flipped bit, each length.

Version 5, its certificates and its CRL are in test_mutations.py.
"""

from __future__ import annotations

import pytest

from agent.core.errors import FormatError, Truncated, VerificationError
from snp import abi, certtable
from snp.certtable import GUIDS
from snp.verify import verify
from snp.words import Product
from tests.support.mutations import cuts, flips
from tests.unit.snp.hierarchy import NOW, World, anchor, world

CASES = [(Product.MILAN, "VCEK", 2), (Product.GENOA, "VLEK", 3), (Product.TURIN, "VCEK", 5)]
TABLE = certtable.build({"ARK": b"\x30\x02\x05\x00", "VCEK": b"\x30\x03\x04\x01\xff", "CRL": b"\x30\x00"})


@pytest.mark.parametrize(("product", "kind", "version"), CASES)
def test_every_flipped_bit_of_a_report_is_refused(product: Product, kind: str, version: int) -> None:
    made: World = world(product, kind, version)
    bag, anchors = made.bag(), (anchor(),)
    blob = made.signed()
    assert verify(blob, bag, anchors, NOW).version == version
    codes = set()
    for _, changed in flips(blob):
        with pytest.raises((FormatError, VerificationError)) as caught:
            verify(changed, bag, anchors, NOW)
        codes.add(caught.value.code)
    assert {"verify.signature", "format.version", "format.reserved"} <= codes


@pytest.mark.parametrize(("product", "kind", "version"), CASES)
def test_every_flipped_bit_of_a_report_is_refused_or_read_back(product: Product, kind: str, version: int) -> None:
    for _, changed in flips(world(product, kind, version).signed()):
        try:
            found = abi.parse(changed)
        except FormatError:
            continue
        assert type(found).build(**found.values()).data == changed


@pytest.mark.parametrize(("product", "kind", "version"), CASES)
def test_every_cut_of_a_report_is_truncated(product: Product, kind: str, version: int) -> None:
    for _, cut in cuts(world(product, kind, version).signed()):
        with pytest.raises(Truncated):
            abi.parse(cut)


def test_every_flipped_bit_of_a_table_is_refused_or_in_one_entry() -> None:
    sound = certtable.parse(TABLE)
    body = len(TABLE) - sum(map(len, sound.values()))
    for bit, changed in flips(TABLE):
        try:
            found = certtable.parse(changed)
        except FormatError:
            assert bit // 8 < body  # rows only: what an entry holds is not judged here
            continue
        differ = [guid for guid in sound.keys() | found.keys() if sound.get(guid) != found.get(guid)]
        # One bit of a row makes another name of an entry; one bit of a certificate another certificate.
        assert len(differ) == (1 if bit // 8 >= body else 2)


def test_every_flipped_bit_of_a_table_gives_typed_errors_or_der() -> None:
    for _, changed in flips(TABLE):
        try:
            found = certtable.certificates(changed)
        except FormatError:
            continue
        assert all(der[:1] == b"\x30" for der in (*found.certificates, *found.crls))


def test_every_cut_of_a_table_is_refused() -> None:
    for size, cut in cuts(TABLE):
        if size:  # a host that gives nothing gives an empty table
            with pytest.raises(FormatError):
                certtable.parse(cut)
    assert certtable.parse(b"") == {}
    assert set(certtable.parse(TABLE)) == {GUIDS[name] for name in ("ARK", "VCEK", "CRL")}
