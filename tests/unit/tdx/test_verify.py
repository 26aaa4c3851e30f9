"""Each check of the verifier: a world that passes, and one that fails for exactly that reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agent.core.errors import (
    BindingMismatch,
    ChainInvalid,
    FormatError,
    OutOfValidity,
    Revoked,
    SignatureInvalid,
    TcbRejected,
    TeeAgentError,
    UntrustedRoot,
    VerificationError,
)
from agent.core.model import Endorsements, ReportData, Tee, TrustAnchor
from tdx import abi, verify
from tdx.roots import GENUINE
from tests.unit.tdx.world import DAY, NOW, World, level, platform_level, sgx_extension

Spoil = Callable[[World], Any]
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0")


def test_everything_good() -> None:
    world = World()
    world.report_data = ReportData(b"r" * 64)
    verified = world.verify()
    assert verified.tee is Tee.TDX
    assert verified.version == 5
    assert verified.tcb_status == "UpToDate"
    assert verified.report_data == b"r" * 64
    assert verified.not_checked == ()
    assert [(check.number, check.ok) for check in verified.checks] == [(number, True) for number in range(1, 15)]
    assert verified.root == world.anchor()
    assert verified.added_root
    assert verified.revocation == "as of 2026-05-31T00:00:00Z"
    assert verified.not_after == NOW + DAY
    assert verified.fields["fmspc"] == "00aabbccddee"
    assert verified.fields["pck"]["serial"] == "0x3"
    assert verified.fields["tcb_status_detail"]["overall"] == "UpToDate"


def test_version_4_and_the_td10_body_of_version_5() -> None:
    for version in (4, 5):
        world = World()
        world.header, world.kind = {"version": version}, abi.Body
        verified = world.verify()
        assert verified.version == version
        assert "tee_tcb_svn_2" not in verified.fields


def _leaf(**changes: Any) -> Spoil:
    return lambda world: setattr(world, "leaf", dataclasses.replace(world.leaf, **changes))


def _ca(**changes: Any) -> Spoil:
    return lambda world: setattr(world, "ca", dataclasses.replace(world.ca, **changes))


def _root(**changes: Any) -> Spoil:
    return lambda world: setattr(world, "root", dataclasses.replace(world.root, **changes))


def _signer(**changes: Any) -> Spoil:
    return lambda world: setattr(world, "signer", dataclasses.replace(world.signer, **changes))


def _crl(which: str, **changes: Any) -> Spoil:
    return lambda world: setattr(world, which, dataclasses.replace(getattr(world, which), **changes))


def _set(name: str, value: Any) -> Spoil:
    return lambda world: setattr(world, name, value)


def _info(**changes: Any) -> Spoil:
    return lambda world: world.tcb_info.update(changes)


def _identity(**changes: Any) -> Spoil:
    return lambda world: world.qe_identity.update(changes)


def _module(**changes: Any) -> Spoil:
    return lambda world: world.tcb_info["tdxModuleIdentities"][0].update(changes)


REFUSED: list[tuple[str, int, type[TeeAgentError], str, Spoil]] = [
    ("sgx-quote", 1, VerificationError, "not TDX", _set("header", {"version": 5, "tee_type": 0})),
    ("p384-key", 1, VerificationError, "key type 3", _set("header", {"version": 5, "att_key_type": 3})),
    ("other-vendor", 1, VerificationError, "vendor", _set("header", {"version": 5, "qe_vendor_id": b"v" * 16})),
    ("reversed", 2, ChainInvalid, "leaf, intermediate, root order", _set("order", [2, 1, 0])),
    ("swapped", 2, ChainInvalid, "leaf, intermediate, root order", _set("order", [0, 2, 1])),
    ("no-root", 2, ChainInvalid, "has 2 certificates", _set("order", [0, 1])),
    ("twice", 2, ChainInvalid, "has 4 certificates", _set("order", [0, 1, 2, 2])),
    ("root-thrice", 2, ChainInvalid, "not an end entity", _set("order", [2, 2, 2])),
    ("leaf-forged", 2, ChainInvalid, 'signature of "ca" on "pck"', _leaf(signer="forger")),
    ("authority-forged", 2, ChainInvalid, 'signature of "root" on "ca"', _ca(signer="forger")),
    ("root-forged", 2, ChainInvalid, 'signature of "root" on "root"', _root(signer="forger")),
    ("other-digest", 2, ChainInvalid, "ECDSA and SHA-256", _leaf(digest=hashes.SHA384())),
    ("authority-is-none", 2, ChainInvalid, "not an authority", _ca(constraints=False)),
    ("authority-may-not-sign", 2, ChainInvalid, "not an authority", _ca(authority=False, constraints=True)),
    ("leaf-is-authority", 2, ChainInvalid, "not an end entity", _leaf(constraints=True)),
    ("leaf-may-not-sign", 2, ChainInvalid, "not an end entity", _leaf(digital_signature=False)),
    ("critical-unknown", 2, ChainInvalid, "1.2.3.4", _leaf(extra=[(UNKNOWN, True)])),
    ("no-sgx-extension", 2, ChainInvalid, "no SGX extension", _set("extension", None)),
    (
        "bad-sgx-extension",
        2,
        ChainInvalid,
        "SGX extension: an element is longer",
        _set("extension", sgx_extension()[:-1]),
    ),
    ("untrusted", 2, UntrustedRoot, "not a trusted root", _set("anchors", GENUINE)),
    ("no-anchor", 2, UntrustedRoot, "not a trusted root", _set("anchors", ())),
    ("leaf-expired", 3, OutOfValidity, '"pck"', _leaf(end=NOW - DAY)),
    ("leaf-early", 3, OutOfValidity, '"pck"', _leaf(start=NOW + DAY)),
    ("authority-expired", 3, OutOfValidity, '"ca"', _ca(end=NOW - DAY)),
    ("root-expired", 3, OutOfValidity, '"root"', _root(end=NOW - DAY)),
    ("qe-forged", 4, SignatureInvalid, "QE report", _set("qe_signer", "forger")),
    ("qe-signed-by-authority", 4, SignatureInvalid, "QE report", _set("qe_signer", "ca")),
    ("other-auth-data", 5, BindingMismatch, "attestation key", _set("auth", b"other")),
    ("other-key-bound", 5, BindingMismatch, "attestation key", _set("qe", {"report_data": bytes(64)})),
    ("other-enclave", 6, TcbRejected, "Intel's", _set("qe", {"mrsigner": b"s" * 32})),
    ("other-product", 6, TcbRejected, "Intel's", _set("qe", {"isvprodid": 1})),
    ("debug-enclave", 6, TcbRejected, "production", _set("qe", {"attributes": b"\x17" + bytes(15)})),
    ("quote-forged", 7, SignatureInvalid, "quote", _set("quote_signer", "forger")),
    ("other-module-signer", 8, TcbRejected, "module", _set("body", {"mr_signer_seam": b"s" * 48})),
    ("module-attributes", 8, TcbRejected, "module", _set("body", {"seam_attributes": b"\1" + bytes(7)})),
    ("collateral-forged", 9, SignatureInvalid, "tcbInfo", _set("collateral_signer", "forger")),
    ("collateral-by-root", 9, SignatureInvalid, "tcbInfo", _set("collateral_signer", "root")),
    ("signer-forged", 9, ChainInvalid, "does not verify", _signer(signer="forger")),
    ("signer-of-authority", 9, ChainInvalid, "was not issued by", _signer(issuer="ca")),
    ("signer-is-authority", 9, ChainInvalid, "not an end entity", _signer(authority=True)),
    ("signer-renamed", 9, ChainInvalid, "no certificate", _signer(subject="other")),
    ("signer-longer-name", 9, ChainInvalid, "is not", _signer(subject="Intel SGX TCB Signing 2")),
    ("signer-expired", 9, OutOfValidity, "TCB Signing", _signer(end=NOW - DAY)),
    ("info-old", 10, OutOfValidity, "TCB info", _info(nextUpdate="2026-05-31T23:59:59Z")),
    ("info-early", 10, OutOfValidity, "TCB info", _info(issueDate="2026-06-02T00:00:00Z")),
    ("identity-old", 10, OutOfValidity, "QE identity", _identity(nextUpdate="2026-05-31T23:59:59Z")),
    ("other-platform", 11, TcbRejected, "FMSPC", _info(fmspc="00aabbccddef")),
    ("other-pce", 11, TcbRejected, "PCEID", _info(pceId="0001")),
    ("enclave-signer", 12, TcbRejected, "MRSIGNER", _identity(mrsigner="00" * 32)),
    ("enclave-product", 12, TcbRejected, "ISVPRODID", _identity(isvprodid=1)),
    ("enclave-misc", 12, TcbRejected, "MISCSELECT", _identity(miscselect="00000001")),
    ("enclave-attributes", 12, TcbRejected, "ATTRIBUTES", _identity(attributes="01" + "00" * 15)),
    ("enclave-revoked", 12, TcbRejected, "Revoked", _identity(tcbLevels=[level({"isvsvn": 1}, "Revoked")])),
    ("enclave-too-old", 12, TcbRejected, "NoMatchingLevel", _identity(tcbLevels=[level({"isvsvn": 6})])),
    ("module-signer", 12, TcbRejected, "module", _module(mrsigner="11" * 48)),
    ("module-unknown", 12, TcbRejected, "NoMatchingLevel", _module(id="TDX_02")),
    ("module-too-old", 12, TcbRejected, "NoMatchingLevel", _module(tcbLevels=[level({"isvsvn": 7})])),
    ("module-revoked", 12, TcbRejected, "Revoked", _module(tcbLevels=[level({"isvsvn": 1}, "Revoked")])),
    ("revoked-level", 12, TcbRejected, "Revoked", _info(tcbLevels=[platform_level("Revoked")])),
    ("no-level", 12, TcbRejected, "NoMatchingLevel", _info(tcbLevels=[platform_level(pcesvn=12)])),
    ("pck-revoked", 13, Revoked, '"pck" with serial 0x3', _crl("pck_crl", revoked=(9, 3))),
    ("authority-revoked", 13, Revoked, '"ca" with serial 0x2', _crl("root_crl", revoked=(2,))),
    ("signer-revoked", 13, Revoked, "TCB Signing", _crl("root_crl", revoked=(4,))),
    ("pck-crl-old", 13, OutOfValidity, 'CRL of "ca"', _crl("pck_crl", start=NOW - 3 * DAY, end=NOW - DAY)),
    ("root-crl-early", 13, OutOfValidity, 'CRL of "root"', _crl("root_crl", start=NOW + DAY, end=NOW + 2 * DAY)),
    ("crl-forged", 13, ChainInvalid, "on a CRL", _crl("pck_crl", signer="forger")),
    ("crl-by-root", 13, ChainInvalid, "on a CRL", _crl("pck_crl", signer="root")),
    ("crl-missing", 13, ChainInvalid, "but none of", _crl("pck_crl", issuer="other")),
    ("crl-of-a-part", 13, ChainInvalid, "1.2.3.4", _crl("pck_crl", extra=[(UNKNOWN, True)])),
    ("other-report-data", 14, BindingMismatch, "REPORT_DATA", _set("report_data", ReportData(bytes(64)))),
]


@pytest.mark.parametrize(
    ("number", "error", "message", "spoil"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED]
)
def test_refused(number: int, error: type[TeeAgentError], message: str, spoil: Spoil) -> None:
    world = World()
    spoil(world)
    with pytest.raises(error, match=message) as caught:
        world.verify()
    assert type(caught.value) is error
    assert isinstance(caught.value, VerificationError)
    last = caught.value.checks[-1]
    assert (last.number, last.ok, last.detail) == (number, False, caught.value.message)
    assert all(check.ok for check in caught.value.checks[:-1])


def test_every_check_is_shown_to_fail() -> None:
    assert {case[1] for case in REFUSED} == set(range(1, 15))


def test_the_ends_of_validity_belong_to_it() -> None:
    world = World()
    for moment in (world.pck_crl.start, world.pck_crl.end):
        assert moment is not None
        world.at = moment
        assert world.verify().tcb_status == "UpToDate"
    world.at += timedelta(seconds=1)
    with pytest.raises(OutOfValidity):
        world.verify()


def test_collateral_comes_whole_or_not_at_all() -> None:
    world = World()
    good = world.endorsements()
    for part in ("tcb_info", "qe_identity"):
        changes: dict[str, Any] = {part: b""}
        with pytest.raises(VerificationError, match="together"):
            world.verify(dataclasses.replace(good, **changes))
    for crls in (good.crls[:1], good.crls[1:]):
        with pytest.raises(ChainInvalid, match="but none of"):
            world.verify(dataclasses.replace(good, crls=crls))


def test_without_endorsements() -> None:
    verified = World().verify(Endorsements())
    assert verified.tcb_status == "n/a"
    assert verified.revocation == "not checked"
    assert len(verified.not_checked) == 3
    assert [check.number for check in verified.checks] == list(range(1, 9))
    assert verified.not_after == NOW + 365 * DAY


def test_crls_of_another_vendor_are_not_ours() -> None:
    """What counts is the algorithm, which stands in a CRL twice: one changed place does not make it another's."""
    world = World()
    ours, ecdsa, pkcs1 = world.pck_crl.der(), bytes.fromhex("06082a8648ce3d0403"), bytes.fromhex("06082a864886f70d0101")
    theirs = ours.replace(ecdsa + b"\x02", pkcs1)
    half = ours.replace(ecdsa + b"\x02", pkcs1, 1)
    assert world.verify(dataclasses.replace(world.endorsements(), crls=(theirs,))).revocation == "not checked"
    with pytest.raises(ChainInvalid):
        world.verify(dataclasses.replace(world.endorsements(), crls=(half,)))


def test_of_two_crls_the_current_one_counts_and_both_may_revoke() -> None:
    world = World()
    good = world.endorsements()
    old = dataclasses.replace(world.pck_crl, revoked=(3,), start=NOW - 9 * DAY, end=NOW - 8 * DAY)
    assert world.verify(dataclasses.replace(good, crls=(old.der(), *good.crls))).tcb_status == "UpToDate"
    other = dataclasses.replace(world.pck_crl, revoked=(3,))
    with pytest.raises(Revoked):
        world.verify(dataclasses.replace(good, crls=(*good.crls, other.der())))


def test_of_two_tcb_signers_with_one_key_the_valid_one_counts() -> None:
    world = World()
    good = world.endorsements()
    old = dataclasses.replace(world.signer, end=NOW - DAY).der()
    for certificates in ((old, *good.certificates), (*good.certificates, old)):
        assert world.verify(dataclasses.replace(good, certificates=certificates)).tcb_status == "UpToDate"


def test_a_flood_of_candidates_is_refused() -> None:
    world = World()
    good = world.endorsements()
    signers = tuple(dataclasses.replace(world.signer, serial=100 + index).der() for index in range(9))
    with pytest.raises(ChainInvalid, match="9 candidates"):
        world.verify(dataclasses.replace(good, certificates=signers))
    crls = tuple(dataclasses.replace(world.pck_crl, revoked=(100 + index,)).der() for index in range(9))
    with pytest.raises(ChainInvalid, match="9 candidates"):
        world.verify(dataclasses.replace(good, crls=(*good.crls[1:], *crls)))


def test_memory_forgets_neither_dates_nor_revocation_nor_anchors() -> None:
    world = World()
    quote, given = world.quote(), world.endorsements()
    verify.forget()
    assert world.verify(given, quote).fields == world.verify(given, quote).fields
    world.at = NOW + 30 * DAY
    with pytest.raises(OutOfValidity):
        world.verify(given, quote)
    world.at = NOW
    revoked = (dataclasses.replace(world.pck_crl, revoked=(3,)).der(), world.root_crl.der())
    with pytest.raises(Revoked):
        world.verify(dataclasses.replace(given, crls=revoked), quote)
    world.anchors = (TrustAnchor("other", bytes(32)),)
    with pytest.raises(UntrustedRoot):
        world.verify(given, quote)


def test_a_result_cannot_spoil_the_memory() -> None:
    world = World()
    quote, given = world.quote(), world.endorsements()
    first = world.verify(given, quote)
    before = repr(first.fields)
    first.fields["pck"]["sgx_tcb_comp_svn"].clear()
    first.fields["tcb_status_detail"].clear()
    assert repr(world.verify(given, quote).fields) == before


def test_malformed_collateral_is_a_format_error() -> None:
    world = World()
    good = world.endorsements()
    for spoilt in (b"{}", good.tcb_info + b"\n", good.tcb_info.upper(), good.qe_identity):
        with pytest.raises(FormatError, match="as Intel serves it"):
            world.verify(dataclasses.replace(good, tcb_info=spoilt))
