"""Quirks of AMD's certificates, made in a throw-away hierarchy: what must be accepted, and what must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from agent.core.errors import ChainInvalid, OutOfValidity, Revoked, VerificationError
from snp import certs
from snp.words import Product
from tests.unit.snp.hierarchy import NOW, YEAR, World, amd, crl, leaf_extensions, number, world
from tests.unit.tdx.world import List as IntelList

HWID = bytes(range(1, 65))
SPLS = {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219, **{f"spl_{n}": 0 for n in range(4, 8)}}


def refused(spoilt: World, code: str, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        spoilt.verify()
    assert caught.value.code == code


def test_vcek_serial_zero_without_authority_key_identifier() -> None:
    """The certificate builder refuses serial 0, so the one byte is changed; the form is read all the same."""
    one, zero = (bytes.fromhex("a003020102") + number(serial) for serial in (1, 0))
    leaf = world().leaf.der().replace(one, zero)
    assert certs.parse_certificate(leaf).serial == 0
    assert bytes.fromhex("551d23") not in certs.parse_certificate(leaf).extensions


def test_hardware_id_wrapped_in_a_der_type_is_another_chips() -> None:
    extensions = [one for one in world().leaf.extensions if getattr(one, "value", b"") != HWID]
    wrapped = world().with_leaf(extensions=[*extensions, amd("4", b"\x04\x40" + HWID)])
    refused(wrapped, "verify.chain.leaf", "another chip")


@pytest.mark.parametrize("value", [b"\x18", b"\x04\x01\x18", b"\x02\x02\x00\x18", b"\x02\x01\xff", b"\x02\x01\x18\x00"])
def test_security_patch_levels_are_integers_and_nothing_else(value: bytes) -> None:
    extensions = [one for one in world().leaf.extensions if getattr(one, "value", b"") != number(24)]
    assert len(extensions) == len(world().leaf.extensions) - 1
    refused(world().with_leaf(extensions=[*extensions, amd("3.3", value)]), "verify.chain.leaf", "snp")


def test_root_re_issued_with_the_same_key_is_accepted() -> None:
    """The pin is over the key: serial number and dates of the certificate that carries it don't matter."""
    again = world().with_root(serial=0x20000, start=NOW - timedelta(1), end=NOW + 9 * YEAR)
    assert again.root.der() != world().root.der()
    old = again.with_root(end=NOW - timedelta(1)).root.der()
    assert replace(again, extra=(old,)).verify().root == world().verify().root
    with pytest.raises(OutOfValidity):
        world().with_root(end=NOW - timedelta(1)).verify()


def test_issuer_re_issued_with_the_same_key_is_accepted() -> None:
    old = world().with_issuer(serial=0x10099, end=NOW - timedelta(1)).issuer.der()
    assert replace(world(), extra=(old,)).verify().added_root


def test_crl_that_revokes_an_older_issuer_leaves_todays_alone() -> None:
    of_an_older = replace(world(), crls=(crl(revoked=[0x10099]),))
    assert of_an_older.verify().revocation.startswith("as of ")
    older = replace(of_an_older, issuer=replace(of_an_older.issuer, serial=0x10099))
    with pytest.raises(Revoked, match="0x10099"):
        older.verify()


def test_crl_of_another_vendor_is_passed_over() -> None:
    """What counts is the algorithm, which stands in a CRL twice: one changed place does not make it another's."""
    theirs = IntelList("root").der()
    assert replace(world(), crls=(theirs,)).verify().revocation == "not checked"
    assert replace(world(), crls=(theirs, crl())).verify().revocation == "as of 2026-05-22T00:00:00Z"
    half = theirs.replace(bytes.fromhex("06082a8648ce3d0403"), bytes.fromhex("06082a864886f70d01"), 1)
    for damaged in (half, crl()[:-1]):
        refused(replace(world(), crls=(damaged,)), "verify.chain.crl", "1 unreadable")


@pytest.mark.parametrize("name", ["Genoa", "Genoa-B1", "Bergamo", "Bergamo-A1", "Siena-A0"])
@pytest.mark.parametrize("model", [0x11, 0xA0, 0xAF])
def test_bergamo_and_siena_hang_under_genoas_keys(name: str, model: int) -> None:
    sound = world(Product.GENOA)
    extensions = leaf_extensions(name, SPLS, hwid=HWID)
    named = sound.with_leaf(extensions=extensions).with_report(cpuid_model=model)
    assert named.verify().fields["cpuid"]["model"] == model


@pytest.mark.parametrize("name", ["Siena", "Bergamo-A1", "Genoa", "Turin", "MilanX", "milan", ""])
def test_names_of_other_products_are_not_milans(name: str) -> None:
    refused(world().with_leaf(extensions=leaf_extensions(name, SPLS, hwid=HWID)), "verify.chain.leaf", "for product")


def test_vlek_with_a_zero_chip_id() -> None:
    for chip_id in (bytes(64), HWID):
        sound = world(kind="VLEK").with_report(chip_id=chip_id)
        assert sound.verify().fields["csp_id"] == "CN=example"


def test_vcek_with_a_zero_chip_id_is_refused() -> None:
    refused(world().with_report(chip_id=bytes(64)), "verify.chain.leaf", "the host masked CHIP_ID")
    zero = world().with_leaf(extensions=leaf_extensions("Milan", SPLS, hwid=bytes(64)))
    refused(zero.with_report(chip_id=bytes(64)), "verify.chain.leaf", "the host masked CHIP_ID")


def _vlek(change: Callable[[World], World]) -> World:
    return change(world(kind="VLEK"))


@pytest.mark.parametrize(
    ("spoilt", "code", "message"),
    [
        (_vlek(lambda w: w.with_issuer(subject="SEV-Milan").with_leaf(issuer="SEV-Milan")), "", "does not issue VLEK"),
        (_vlek(lambda w: w.with_leaf(subject="SEV-VCEK")), "", "no VLEK for this report"),
        (
            _vlek(lambda w: w.with_leaf(extensions=leaf_extensions("Milan", SPLS, hwid=HWID))),
            ".leaf",
            "names no cloud provider",
        ),
        (
            _vlek(lambda w: w.with_leaf(extensions=leaf_extensions("Milan", SPLS, hwid=HWID, csp_id="CN=example"))),
            ".leaf",
            "incomplete",
        ),
        (
            _vlek(lambda w: w.with_leaf(extensions=leaf_extensions("Milan", {**SPLS, "snp": 23}, csp_id="CN=example"))),
            ".leaf",
            "snp 23, the report says 24",
        ),
    ],
)
def test_vlek_chain_is_the_vleks_own(spoilt: World, code: str, message: str) -> None:
    refused(spoilt, f"verify.chain{code}", message)


def test_turins_short_chip_id() -> None:
    sound = world(Product.TURIN)
    assert sound.report.chip_id == HWID[:8] + bytes(56)
    assert sound.verify().fields["chip_id"] == sound.report.chip_id.hex()
    for other in (HWID[:8] + b"\1" + bytes(55), HWID[:7] + bytes(57), HWID):
        with pytest.raises(ChainInvalid, match="another chip"):
            sound.with_report(chip_id=other).verify()


def test_crl_expired_and_crl_from_the_future() -> None:
    for start, end in ((NOW - YEAR, NOW - timedelta(seconds=1)), (NOW + timedelta(seconds=1), NOW + YEAR)):
        refused(replace(world(), crls=(crl(start=start, end=end),)), "verify.validity.crl", "the CRL of ARK-Milan")
