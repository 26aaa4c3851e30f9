"""AMD's service: addresses for genuine reports, and what a cert_chain must be."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FormatError, Oversized
from snp import abi, certs, kds
from snp.words import Product
from tests.support import vectors

WITH_VCEK = [case for case in vectors.cases("snp") if case.values[0] and (case.values[0] / "vcek.pem").exists()]
GENUINE = [case for case in WITH_VCEK if "neg-" not in case.values[0].name]


def pem(*ders: bytes) -> bytes:
    from sim.keys import pem_of

    return b"".join(map(pem_of, ders))


def test_addresses_as_the_specification_has_them() -> None:
    report = abi.VERSIONS[3].build(
        cpuid_family=0x19, cpuid_model=0x11, reported_tcb=0x5417_0000_0000_000A, chip_id=bytes(range(64))
    )
    product = kds.product_of(report)
    assert product is Product.GENOA
    expected = f"/vcek/v1/Genoa/{bytes(range(64)).hex()}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84"
    assert kds.vcek_path(report, product) == expected
    assert kds.chain_path("VCEK", product) == "/vcek/v1/Genoa/cert_chain"
    assert kds.crl_path("VLEK", Product.MILAN) == "/vlek/v1/Milan/crl"


def test_turin_has_another_layout_and_a_short_id() -> None:
    chip = bytes.fromhex("6bb1229b7692b710") + bytes(56)
    report = abi.VERSIONS[5].build(
        cpuid_family=0x1A, cpuid_model=0x02, reported_tcb=0x5200_0000_0401_0101, chip_id=chip
    )
    assert kds.vcek_path(report, kds.product_of(report)) == (
        "/vcek/v1/Turin/6bb1229b7692b710?fmcSPL=01&blSPL=01&teeSPL=01&snpSPL=04&ucodeSPL=82"
    )
    odd = report.replace(chip_id=chip[:8] + b"\1" + bytes(55))
    with pytest.raises(FormatError, match="8 bytes"):
        kds.vcek_path(odd, Product.TURIN)


@pytest.mark.parametrize("folder", GENUINE)
def test_the_address_names_what_the_genuine_certificate_says(folder: Path) -> None:
    """Every vector that has a VCEK: chip and security versions of the address are those of the certificate."""
    report = abi.parse((folder / "report.bin").read_bytes())
    from agent.verify.endorsements import certificates_in_pem

    leaf = certificates_in_pem((folder / "vcek.pem").read_bytes(), "vcek")[0]
    values = certs.leaf_values(certs.parse_certificate(leaf))
    product = kds.product_of(report, Product.MILAN if report.version == 2 else None)
    parts = urlsplit(kds.vcek_path(report, product))
    assert parts.path == f"/vcek/v1/{values.product_name.split('-')[0]}/{values.hwid.hex()}"
    asked = {name: int(number[0]) for name, number in parse_qs(parts.query).items()}
    names = {"blSPL": "bootloader", "teeSPL": "tee", "snpSPL": "snp", "ucodeSPL": "microcode", "fmcSPL": "fmc"}
    assert asked == {name: values.spls[names[name]] for name in asked}
    assert ("fmcSPL" in asked) is (product is Product.TURIN)


def test_product_of_a_report_that_does_not_say_it() -> None:
    old = abi.VERSIONS[2].build(chip_id=b"\1" * 64)
    assert kds.product_of(old, Product.TURIN) is Product.TURIN
    with pytest.raises(FormatError, match="version 2"):
        kds.product_of(old)
    new = abi.VERSIONS[3].build(cpuid_family=0x19, cpuid_model=1)
    assert kds.product_of(new, Product.MILAN) is Product.MILAN
    with pytest.raises(FormatError, match="not of Genoa"):
        kds.product_of(new, Product.GENOA)
    unknown = abi.VERSIONS[3].build(cpuid_family=0x1B)
    for named in (None, Product.MILAN):
        with pytest.raises(FormatError, match="no product known"):
            kds.product_of(unknown, named)


def test_a_hidden_chip_and_a_report_that_nobody_signed() -> None:
    report = abi.VERSIONS[3].build(cpuid_family=0x19, cpuid_model=1)
    with pytest.raises(FormatError) as caught:
        kds.vcek_path(report, Product.MILAN)
    assert caught.value.code == "format.chip-id"
    with pytest.raises(FormatError, match="NONE"):
        kds.chain_path("NONE", Product.MILAN)


def test_a_chain_is_two_certificates() -> None:
    assert kds.parse_chain(pem(b"issuer", b"root")) == (b"issuer", b"root")
    assert kds.parse_chain(pem(b"issuer", b"root").replace(b"\n", b"\r\n")) == (b"issuer", b"root")
    assert kds.chain_pem(b"issuer" * 30, b"root") == pem(b"issuer" * 30, b"root")
    key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    for body in (b"", pem(b"one"), pem(b"1", b"2", b"3"), pem(b"1", b"2") + key, b"<html>", pem(b"1", b"2")[:-3]):
        with pytest.raises(FormatError):
            kds.parse_chain(body)
    with pytest.raises(FormatError, match="not PEM"):
        kds.parse_chain(pem(b"1", b"22").replace(b"MQ==", b"MQ=A"))
    with pytest.raises(Oversized):
        kds.parse_chain(bytes(kds.MAX_ANSWER + 1))


@given(st.binary(max_size=300))
def test_any_bytes_as_a_chain(data: bytes) -> None:
    with pytest.raises(FormatError):
        kds.parse_chain(b"-----BEGIN CERTIFICATE-----" + data)
