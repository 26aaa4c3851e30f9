"""Reports both ways, the words inside them, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FormatError, Oversized, Truncated, UnsupportedVersion
from snp import abi
from snp.abi import Report, ReportV2, ReportV3, ReportV4, ReportV5
from snp.words import (
    PLATFORM_BITS,
    POLICY_BITS,
    Product,
    platform_bits,
    policy_bits,
    policy_word,
    product_of,
    tcb_parts,
    tcb_word,
)

SHAPES = [ReportV2, ReportV3, ReportV4, ReportV5]
INTEGERS = st.integers(0, 2**384 - 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_build_and_parse_are_mirror_images(shape: type[Report]) -> None:
    report = shape.build(report_data=bytes(range(64)), vmpl=3, key_info=abi.key_info("VLEK", mask_chip_key=True))
    parsed = abi.parse(report.data)
    assert type(parsed) is shape
    assert parsed == report
    assert parsed.version == shape.VERSION
    assert shape.build(**parsed.values()).data == report.data
    assert (parsed.signing_key, parsed.fields()["mask_chip_key"], parsed.fields()["vmpl"]) == ("VLEK", 1, 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_fields_and_reserved_ranges_cover_every_byte_once(shape: type[Report]) -> None:
    spans = [(field.offset, field.end) for field in shape.FIELDS] + list(shape.RESERVED)
    spans.sort()
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == shape.SIZE == 0x4A0


@pytest.mark.parametrize("size", [0, 1, 4, 1183])
def test_short_reports_are_truncated(size: int) -> None:
    with pytest.raises(Truncated, match="1184 bytes are required"):
        abi.parse(ReportV5.build().data[:size])


@pytest.mark.parametrize("size", [1, 512, 4096])
def test_long_reports_are_oversized(size: int) -> None:
    with pytest.raises(Oversized, match="unexpected data after the 1184-byte report"):
        abi.parse(ReportV5.build().data + bytes(size))


@pytest.mark.parametrize("version", [0, 1, 6, 127, 2**32 - 1])
def test_unknown_versions_are_named(version: int) -> None:
    with pytest.raises(UnsupportedVersion, match=f"unsupported report version {version}$"):
        abi.parse(ReportV5.build(version=version).data)


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        (ReportV3.build(key_info=1 << 5), "KEY_INFO"),
        (ReportV3.build(key_info=2 << 2), "KEY_INFO"),
        (ReportV3.build(signature_r=1 << 384), "signature r"),
        (ReportV3.build(signature_s=1 << 575), "signature s"),
        (ReportV5.build(version=4, current_mit_vector=1), "reserved bytes 0x1f8"),
        (ReportV3.build(version=2, cpuid_family=1), "reserved bytes 0x188"),
    ],
)
def test_reserved_values_are_refused(report: Report, problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        abi.parse(report.data)


def test_every_bit_and_every_length_gives_a_report_or_a_typed_error() -> None:
    sound = ReportV5.build(signature_r=2**383, signature_s=5, key_info=abi.key_info("VLEK"))
    refused = 0
    for at in range(8 * len(sound.data)):
        data = bytearray(sound.data)
        data[at // 8] ^= 1 << at % 8
        try:
            assert abi.parse(bytes(data)).data == data
        except FormatError:
            refused += 1
    reserved = sum(end - start for start, end in ReportV5.RESERVED) + 2 * (72 - 48)
    # Beside reserved bytes: 31 bits of VERSION (5 ^ 1 is 4), 27 + 2 of KEY_INFO (VLEK is 001; 000 is VCEK).
    assert refused == 8 * reserved + 31 + 29
    for size in range(len(sound.data)):
        with pytest.raises(Truncated):
            abi.parse(sound.data[:size])


@given(INTEGERS, INTEGERS)
def test_signatures_go_to_der_and_back(r: int, s: int) -> None:
    report = ReportV3.build(signature_r=r, signature_s=s)
    assert ReportV3.build().with_signature(report.signature_der()) == report


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30\x06\x02\x01\x01\x02\x01",
        b"\x30\x06\x02\x01\x01\x02\x01\x01\x00",
        b"\x30\x07\x02\x02\x00\x01\x02\x01\x01",
        b"\x30\x06\x02\x01\xff\x02\x01\x01",
        b"\x31\x06\x02\x01\x01\x02\x01\x01",
        b"\x30\x08\x02\xff\x01\x02\x01\x01\x00\x00",
        b"\x30\x36\x02\x31\x01" + bytes(48) + b"\x02\x01\x01",
        bytes(105),
    ],
)
def test_signatures_that_are_not_der_are_refused(der: bytes) -> None:
    with pytest.raises(FormatError):
        ReportV3.build().with_signature(der)


@given(st.integers(0, 2**64 - 1), st.sampled_from([None, *Product]))
def test_tcb_words_split_and_join(word: int, product: Product | None) -> None:
    parts = tcb_parts(word, product)
    reserved = {None: 2, Product.MILAN: 2, Product.GENOA: 2, Product.TURIN: 4}[product]
    mask = (2 ** (24 if product is Product.TURIN else 32) - 1) << 8 * reserved
    assert tcb_word(product, **parts) == word & ~mask


def test_tcb_words_of_both_families() -> None:
    assert tcb_word(Product.GENOA, bootloader=10, snp=23, microcode=84) == 0x541700000000000A
    assert tcb_word(Product.TURIN, bootloader=1, snp=2, microcode=71) == 0x4700000002000100
    for parts in ({"fmc": 1}, {"snp": 256}, {"snp": -1}):
        with pytest.raises(FormatError):
            tcb_word(Product.MILAN, **parts)


def test_the_layout_of_version_2_is_the_callers() -> None:
    report = ReportV2.build(reported_tcb=0x4700000002000100)
    assert "fmc" not in report.fields()["reported_tcb"]
    assert report.fields(Product.TURIN)["reported_tcb"]["fmc"] == 0
    # A report with CPUID bytes knows better than its caller.
    milan = ReportV3.build(cpuid_family=0x19, cpuid_model=1)
    assert "fmc" not in milan.fields(Product.TURIN)["reported_tcb"]


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x01, Product.MILAN),
        (0x19, 0x11, Product.GENOA),
        (0x19, 0xA0, Product.GENOA),
        (0x1A, 0x02, Product.TURIN),
        (0x1A, 0x11, Product.TURIN),
        (0x19, 0x20, None),
        (0x1A, 0x50, None),
        (0x17, 0x31, None),
    ],
)
def test_products_by_cpuid(family: int, model: int, product: Product | None) -> None:
    assert product_of(family, model) is product
    assert ReportV3.build(cpuid_family=family, cpuid_model=model).product is product


def test_policy_and_platform_words_by_name() -> None:
    word = policy_word(abi_major=1, abi_minor=0x1F, smt=True, debug=True)
    assert word == 0xB011F
    bits = policy_bits(word)
    assert [name for name, on in bits.items() if on] == ["smt", "reserved_must_be_one", "debug"]
    assert ReportV3.build(policy=word).fields()["policy_bits"] == {
        "abi_minor": 0x1F,
        "abi_major": 1,
        **{name: bits[name] for name in ("smt", "reserved_must_be_one", "migrate_ma", "debug", "single_socket")},
    }
    assert [name for name, on in platform_bits(0x25).items() if on] == ["smt_en", "ecc_en", "alias_check_complete"]
    assert len(set(POLICY_BITS.values())) == len(POLICY_BITS)
    assert sorted(PLATFORM_BITS.values()) == list(range(8))


def test_key_info_names_the_signer() -> None:
    assert abi.key_info("VLEK") == 4
    assert abi.key_info("NONE", author_key_en=True, mask_chip_key=True) == 0x1F
    assert ReportV3.build(key_info=abi.key_info("NONE")).signing_key == "NONE"
