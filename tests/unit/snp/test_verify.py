"""Each check of the verifier: sound worlds pass, and every way to spoil one fails at the check that is meant for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from agent.core.errors import (
    BindingMismatch,
    ChainInvalid,
    OutOfValidity,
    Revoked,
    SignatureInvalid,
    UntrustedRoot,
    VerificationError,
)
from agent.core.model import Endorsements, ReportData, TrustAnchor
from snp import abi, chain
from snp.roots import GENUINE
from snp.verify import _warm, forget, verify
from snp.words import Product, tcb_word
from tests.unit.snp.hierarchy import NOW, YEAR, World, amd, anchor, crl, leaf_extensions, standard, world

KINDS = [(product, kind, version) for product in Product for kind in ("VCEK", "VLEK") for version in (2, 3, 5)]
NOT_GIVEN = ("revocation: no CRL was given", "REPORT_DATA: no expected value was given")
HWID = bytes(range(1, 65))
SPLS = {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}


def spoilt_leaf(**changes: object) -> Callable[[World], World]:
    return lambda sound: sound.with_leaf(**changes)


def leaf_with(
    product_name: str = "Milan", hwid: bytes = HWID, csp_id: str = "", **spls: int
) -> Callable[[World], World]:
    extensions = leaf_extensions(product_name, {**SPLS, **spls}, hwid=hwid, csp_id=csp_id)
    return spoilt_leaf(extensions=extensions)


def issuer_usage(value: bytes) -> Callable[[World], World]:
    return lambda sound: sound.with_issuer(extensions=[standard("15", value)])


SPOILT: list[tuple[str, Callable[[World], World], type[VerificationError], int, str]] = [
    ("unsigned", lambda w: w.with_report(key_info=abi.key_info("NONE")), SignatureInvalid, 1, "not signed"),
    ("algorithm", lambda w: w.with_report(signature_algo=2), SignatureInvalid, 1, "algorithm 2"),
    ("other leaf kind", lambda w: w.with_report(key_info=abi.key_info("VLEK")), ChainInvalid, 2, "no VLEK"),
    ("leaf's issuer absent", lambda w: w.with_leaf(issuer="SEV-Genoa"), ChainInvalid, 2, "no issuer of the VCEK"),
    ("root absent", lambda w: w.with_issuer(issuer="ARK-Genoa"), ChainInvalid, 2, "no root"),
    ("root not self-issued", lambda w: w.with_root(issuer="ARK-Genoa"), ChainInvalid, 2, "no root"),
    ("weak profile", lambda w: w.with_issuer(weak=True), ChainInvalid, 2, "no issuer"),
    ("leaf by another", lambda w: w.with_leaf(signer="stranger"), ChainInvalid, 3, "SEV-VCEK"),
    ("issuer by another", lambda w: w.with_issuer(signer="stranger"), ChainInvalid, 3, "SEV-Milan"),
    ("root by another", lambda w: w.with_root(signer="stranger"), ChainInvalid, 3, "ARK-Milan"),
    ("leaf by the root", lambda w: w.with_leaf(signer="ark"), ChainInvalid, 3, "SEV-VCEK"),
    (
        "self-made root",
        lambda w: replace(w.with_issuer(signer="mine"), root=replace(w.root, key="mine", signer="mine")),
        UntrustedRoot,
        4,
        "not a trusted AMD ARK",
    ),
    (
        "unknown product",
        lambda w: w.with_root(subject="ARK-Venice", issuer="ARK-Venice").with_issuer(issuer="ARK-Venice"),
        ChainInvalid,
        5,
        "no product known",
    ),
    (
        "issuer of the other kind",
        lambda w: w.with_issuer(subject="SEV-VLEK-Milan").with_leaf(issuer="SEV-VLEK-Milan"),
        ChainInvalid,
        5,
        "does not issue VCEK",
    ),
    ("root without authority", lambda w: w.with_root(authority=None), ChainInvalid, 5, "ARK-Milan is no"),
    ("issuer without authority", lambda w: w.with_issuer(authority=False), ChainInvalid, 5, "SEV-Milan is no"),
    ("leaf with authority", lambda w: w.with_leaf(authority=True), ChainInvalid, 5, "SEV-VCEK claims"),
    ("issuer's key not for signing", issuer_usage(b"\x03\x02\x00\x80"), ChainInvalid, 5, "SEV-Milan is no"),
    ("issuer's key usage unreadable", issuer_usage(b"\x03\x01\x00"), ChainInvalid, 5, "SEV-Milan is no"),
    (
        "leaf's authority unreadable",
        lambda w: w.with_leaf(extensions=[*w.leaf.extensions, standard("19", b"\x30\x03\x01\x01\x01")]),
        ChainInvalid,
        5,
        "SEV-VCEK",
    ),
    ("another processor", lambda w: w.with_report(cpuid_model=0x11), ChainInvalid, 5, "processor is Genoa"),
    ("unknown processor", lambda w: w.with_report(cpuid_model=0x70), ChainInvalid, 5, "no product known"),
    ("leaf expired", lambda w: w.with_leaf(end=NOW - timedelta(1)), OutOfValidity, 6, "SEV-VCEK"),
    ("issuer not yet valid", lambda w: w.with_issuer(start=NOW + timedelta(1)), OutOfValidity, 6, "SEV-Milan"),
    ("root expired", lambda w: w.with_root(end=NOW - timedelta(1)), OutOfValidity, 6, "ARK-Milan"),
    ("CRL of another", lambda w: replace(w, crls=(crl("ARK-Genoa"),)), ChainInvalid, 7, "0 are of ARK-Milan"),
    ("CRL unreadable", lambda w: replace(w, crls=(b"\x30\x00",)), ChainInvalid, 7, "1 unreadable"),
    ("CRL by another", lambda w: replace(w, crls=(crl(signer="mine"),)), ChainInvalid, 7, "does not verify"),
    ("too many CRLs", lambda w: replace(w, crls=(crl(),) * 9), ChainInvalid, 7, "9 are of"),
    ("CRL expired", lambda w: replace(w, crls=(crl(end=NOW - timedelta(1)),)), OutOfValidity, 7, "the CRL of"),
    ("CRL of the future", lambda w: replace(w, crls=(crl(start=NOW + timedelta(1)),)), OutOfValidity, 7, "the CRL of"),
    ("issuer revoked", lambda w: replace(w, crls=(crl(revoked=[5, 0x10001]),)), Revoked, 7, "serial 0x10001"),
    ("root revoked", lambda w: replace(w, crls=(crl(revoked=[0x10000]),)), Revoked, 7, "ARK-Milan"),
    (
        "revoked by an older CRL",
        lambda w: replace(w, crls=(crl(), crl(revoked=[0x10001], start=NOW - YEAR, end=NOW - timedelta(9)))),
        Revoked,
        7,
        "SEV-Milan",
    ),
    ("another chip", lambda w: w.with_report(chip_id=bytes(64)), ChainInvalid, 8, "another chip"),
    ("short hwID", leaf_with(hwid=HWID[:8]), ChainInvalid, 8, "another chip"),
    ("another TCB", leaf_with(snp=23), ChainInvalid, 8, "snp 23, the report says 24"),
    (
        "reserved TCB byte",
        lambda w: w.with_report(reported_tcb=w.report.reported_tcb | 1 << 24),
        ChainInvalid,
        8,
        "spl_5",
    ),
    ("reserved SPL", leaf_with(spl_4=1), ChainInvalid, 8, "spl_4 1"),
    ("FMC on Milan", leaf_with(fmc=0), ChainInvalid, 8, "does not have"),
    ("leaf of another product", leaf_with("Genoa"), ChainInvalid, 8, "for product Genoa"),
    ("VLEK values in a VCEK", leaf_with(hwid=b"", csp_id="CN=example"), ChainInvalid, 8, "another chip"),
    ("hwID and provider", leaf_with(csp_id="CN=example"), ChainInvalid, 8, "incomplete"),
    ("no extensions", spoilt_leaf(extensions=()), ChainInvalid, 8, "incomplete"),
    ("level of two bytes", leaf_with(snp=256), ChainInvalid, 8, "more than one byte"),
    ("RSA leaf", spoilt_leaf(key="rsa"), ChainInvalid, 8, "P-384"),
    ("unknown critical extension", spoilt_leaf(critical=True), ChainInvalid, 2, "critical and not understood"),
]


@pytest.mark.parametrize(("product", "kind", "version"), KINDS)
def test_sound_worlds_pass(product: Product, kind: str, version: int) -> None:
    sound = replace(world(product, kind, version), crls=(crl(f"ARK-{product}"),))
    verified = sound.verify(report_data=ReportData(bytes(range(64))))
    assert [check.number for check in verified.checks] == list(range(1, 11))
    assert all(check.ok for check in verified.checks)
    assert verified.added_root
    assert verified.root == anchor()
    assert verified.not_checked == ()
    assert verified.revocation == "as of 2026-05-22T00:00:00Z"
    assert verified.not_after == NOW + timedelta(days=30)
    assert verified.fields == sound.report.fields(product) | ({"csp_id": "CN=example"} if kind == "VLEK" else {})
    assert ("fmc" in verified.fields["reported_tcb"]) is (product is Product.TURIN)


@pytest.mark.parametrize(("spoil", "error", "number", "message"), [pytest.param(*c[1:], id=c[0]) for c in SPOILT])
def test_spoilt_worlds_fail(
    spoil: Callable[[World], World], error: type[VerificationError], number: int, message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        spoil(world()).verify()
    assert caught.type is error
    assert [check.ok for check in caught.value.checks] == [True] * (number - (2 if number > 7 else 1)) + [False]
    assert caught.value.checks[-1].number == number


def test_without_crl_and_report_data_it_says_so() -> None:
    verified = world().verify()
    assert verified.not_checked == NOT_GIVEN
    assert verified.revocation == "not checked"
    assert [check.number for check in verified.checks] == [1, 2, 3, 4, 5, 6, 8, 9]


def test_another_report_data_is_refused() -> None:
    with pytest.raises(BindingMismatch) as caught:
        world().verify(report_data=ReportData(bytes(64)))
    assert caught.value.checks[-1].number == 10


def test_a_signature_by_another_key_is_refused() -> None:
    sound = world()
    stranger = sound.with_leaf(key="leaf-2")
    with pytest.raises(SignatureInvalid) as caught:
        verify(sound.signed(), stranger.bag(), [anchor()], NOW)
    assert caught.value.checks[-1].number == 9


def test_genuine_anchors_do_not_take_a_throwaway_root() -> None:
    sound = world()
    with pytest.raises(UntrustedRoot):
        verify(sound.signed(), sound.bag(), GENUINE, NOW)
    with pytest.raises(UntrustedRoot):
        verify(sound.signed(), sound.bag(), (), NOW)


def test_a_genuine_anchor_wins_over_an_added_one_of_the_same_key() -> None:
    sound = world()
    genuine = TrustAnchor("vendor", anchor().spki_sha256, genuine=True)
    assert verify(sound.signed(), sound.bag(), (anchor(), genuine), NOW).root is genuine


def test_what_is_not_needed_is_ignored() -> None:
    sound = world()
    other_tcb = replace(world(), leaf=leaf_with(snp=1)(sound).leaf)
    expired = sound.with_leaf(end=NOW - timedelta(1))
    genoa = world(Product.GENOA)
    extra = (b"", b"\x30\x03abc", other_tcb.leaf.der(), expired.leaf.der(), *genoa.bag().certificates)
    extra += (sound.with_issuer(key="mine").issuer.der(), sound.with_root(key="mine", signer="mine").root.der())
    crls = (crl("ARK-Genoa"), b"junk", crl(end=NOW - timedelta(1)), crl(signer="mine"), crl())
    assert replace(sound, extra=extra, crls=crls).verify().revocation == "as of 2026-05-22T00:00:00Z"


def test_an_empty_bag_says_what_is_missing() -> None:
    with pytest.raises(ChainInvalid, match="no VCEK for this report among the 0") as caught:
        verify(world().signed(), Endorsements(), GENUINE, NOW)
    assert "key distribution service" in caught.value.hint


def test_damage_is_named_when_the_leaf_is_missing() -> None:
    sound = world()
    broken = Endorsements((sound.leaf.der()[:-1], *sound.bag().certificates[1:]))
    with pytest.raises(ChainInvalid, match="1 unreadable: certificate: an element is longer"):
        verify(sound.signed(), broken, [anchor()], NOW)


def test_a_warm_chain_gives_the_same_result_and_is_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = world(Product.GENOA)
    blob, bag, anchors = sound.signed(), sound.bag(), [anchor()]
    cold = verify(blob, bag, anchors, NOW)
    monkeypatch.setattr(chain, "build", lambda *_: pytest.fail("built again"))
    assert verify(blob, bag, anchors, NOW + timedelta(1)) == cold
    forget()
    with pytest.raises(pytest.fail.Exception, match="built again"):
        verify(blob, bag, anchors, NOW)


@pytest.mark.parametrize("at", [NOW - 2 * YEAR, NOW + 2 * YEAR])
def test_a_warm_chain_is_still_bound_by_time(at: datetime) -> None:
    sound = world()
    blob, bag = sound.signed(), sound.bag()
    verify(blob, bag, [anchor()], NOW)
    with pytest.raises(OutOfValidity):
        verify(blob, bag, [anchor()], at)


@pytest.mark.parametrize("version", [2, 3])
def test_a_warm_chain_serves_no_other_report(version: int) -> None:
    sound = world(version=version)
    bag = sound.bag()
    verify(sound.signed(), bag, [anchor()], NOW)
    changes: list[dict[str, object]] = [
        {"chip_id": bytes(64)},
        {"reported_tcb": tcb_word(Product.MILAN, **{**SPLS, "snp": 25})},
        {"key_info": abi.key_info("VLEK")},
    ]
    if version == 3:
        changes.append({"cpuid_model": 0x11})
    for change in changes:
        with pytest.raises(ChainInvalid):
            verify(sound.with_report(**change).signed(), bag, [anchor()], NOW)


def test_a_warm_chain_serves_no_other_anchor() -> None:
    sound = world()
    blob, bag = sound.signed(), sound.bag()
    verify(blob, bag, [anchor()], NOW)
    with pytest.raises(UntrustedRoot):
        verify(blob, bag, [anchor("mine")], NOW)


def test_warm_chains_are_few() -> None:
    sound = world()
    blob, bag = sound.signed(), sound.bag()
    for index in range(40):
        spki = index.to_bytes(32, "big")
        assert verify(blob, bag, (anchor(), TrustAnchor("other", spki)), NOW).root == anchor()
    assert len(_warm._chains) == 32


def test_a_large_bag_is_verified_but_not_kept() -> None:
    sound = replace(world(Product.TURIN), extra=(bytes(300 * 1024),))
    kept = list(_warm._chains)
    assert sound.verify().added_root
    assert list(_warm._chains) == kept


def test_a_key_allowed_to_sign_certificates_may() -> None:
    assert issuer_usage(b"\x03\x02\x02\x04")(world()).verify().added_root


def test_turin_leaves_have_eight_bytes_of_hwid_and_fmc() -> None:
    sound = world(Product.TURIN)
    spls = {**SPLS, "fmc": 1}
    for problem, extensions in (
        ("another chip", leaf_extensions("Turin", spls, hwid=bytes(range(1, 9)) + bytes(56), struct_version=1)),
        ("fmc -1", leaf_extensions("Turin", SPLS, hwid=bytes(range(1, 9)), struct_version=1)),
        ("incomplete", [amd("1", b"\x02\x01\x01")]),
    ):
        with pytest.raises(ChainInvalid, match=problem):
            sound.with_leaf(extensions=extensions).verify()


def test_names_of_steppings_belong_to_their_product() -> None:
    assert leaf_with("Milan-B0")(world()).verify().added_root
