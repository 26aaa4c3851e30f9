"""Every genuine SNP report: fields, identical re-serialisation, verdict as its meta.json says."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.errors import (
    ChainInvalid,
    FormatError,
    Oversized,
    SignatureInvalid,
    TeeAgentError,
    Truncated,
    UnsupportedVersion,
    UntrustedRoot,
    VerificationError,
)
from agent.core.model import Endorsements, ReportData, TrustAnchor
from snp import abi, certs, certtable
from snp.roots import GENUINE
from snp.verify import verify
from tests.support import vectors

NOT_GIVEN = ("revocation: no CRL was given", "REPORT_DATA: no expected value was given")
CASES = vectors.cases("snp")
REFUSED: dict[str, tuple[type[TeeAgentError], str]] = {
    "neg-fake-root": (UntrustedRoot, "verify.untrusted-root"),
    "neg-measurement-bitflip": (SignatureInvalid, "verify.signature"),
    "neg-signature-bitflip": (SignatureInvalid, "verify.signature"),
    "neg-trailing-garbage": (Oversized, "format.oversized"),
    "neg-truncated": (Truncated, "format.truncated"),
    "neg-unknown-version": (UnsupportedVersion, "format.version"),
    "genoa-v2-unverifiable": (ChainInvalid, "verify.chain"),
    "milan-v4-unverifiable": (ChainInvalid, "verify.chain"),
}
MALFORMED = {name for name, (error, _) in REFUSED.items() if issubclass(error, FormatError)}


def report_of(folder: Path) -> bytes:
    return (folder / "report.bin").read_bytes()


def der(path: Path) -> bytes:
    return base64.b64decode("".join(path.read_text().split("-----")[2].split()), validate=True)


def endorsements(folder: Path) -> Endorsements:
    names = ("vcek.pem", "vlek.pem", "ask.pem", "ark.pem")
    certificates = tuple(der(folder / name) for name in names if (folder / name).is_file())
    crl = folder / "crl.der"
    return Endorsements(certificates, (crl.read_bytes(),) if crl.is_file() else ())


def moment(folder: Path) -> datetime:
    at = vectors.meta(folder)["verify_at"]
    return datetime.fromisoformat(at) if at else datetime(2026, 1, 1, tzinfo=UTC)


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("folder", [case for case in CASES if case.id in (name, "absent")])


@pytest.mark.parametrize("folder", CASES)
def test_parses_and_writes_back(folder: Path) -> None:
    blob = report_of(folder)
    if folder.name in MALFORMED:
        with pytest.raises(REFUSED[folder.name][0], match=vectors.meta(folder)["expected_error"]):
            abi.parse(blob)
        return
    report = abi.parse(blob)
    assert report.data == blob
    assert type(report).build(**report.values()).data == blob
    assert report.with_signature(report.signature_der()).data == blob
    meta = vectors.meta(folder)
    assert report.version == meta["report_version"]
    assert report.product in (None, meta["product"])
    if not meta["derived"]:
        assert report.fields() == meta["expected"]


@pytest.mark.parametrize("folder", CASES)
def test_verifies_or_fails_as_stated(folder: Path) -> None:
    blob, bag, at = report_of(folder), endorsements(folder), moment(folder)
    meta = vectors.meta(folder)
    if folder.name in REFUSED:
        error, code = REFUSED[folder.name]
        with pytest.raises(error, match=meta.get("expected_error", "no VCEK for this report")) as caught:
            verify(blob, bag, GENUINE, at)
        assert (caught.type, caught.value.code) == (error, code)
        return
    verified = verify(blob, bag, GENUINE, at, report_data=ReportData(abi.parse(blob).report_data))
    assert meta["signature_valid"]
    assert [check.number for check in verified.checks] == list(range(1, 11))
    csp_id = meta["certificates"]["leaf"].get("csp_id")
    assert verified.fields == meta["expected"] | ({"csp_id": csp_id} if csp_id else {})
    assert verified.root.name == meta["certificates"]["root"]["subject_cn"]
    assert not verified.added_root
    assert verified.revocation == f"as of {meta['crl']['this_update']}"
    assert verified.not_checked == ()


@pytest.mark.parametrize("folder", CASES)
def test_leaf_certificates_say_what_is_stated(folder: Path) -> None:
    stated = vectors.meta(folder).get("certificates", {}).get("leaf")
    if not stated:
        assert folder.name in REFUSED
        return
    leaf = certs.parse_certificate(endorsements(folder).certificates[0])
    values = certs.leaf_values(leaf)
    spl = {"bl_spl": "bootloader", "tee_spl": "tee", "snp_spl": "snp", "ucode_spl": "microcode", "fmc_spl": "fmc"}
    assert {name: values.spls[part] for name, part in spl.items() if name in stated} == {
        name: stated[name] for name in spl if name in stated
    }
    assert (leaf.common_name, hex(leaf.serial), leaf.not_after) == (
        stated["subject_cn"],
        stated["serial"],
        datetime.fromisoformat(stated["not_after"]),
    )
    assert (values.struct_version, values.product_name) == (stated["struct_version"], stated["product_name"])
    assert (values.hwid.hex(), values.csp_id) == (stated.get("hwid", ""), stated.get("csp_id", ""))


@only("neg-fake-root")
def test_a_fake_root_is_accepted_only_when_added_by_name(folder: Path) -> None:
    bag = endorsements(folder)
    root = certs.parse_certificate(bag.certificates[2])
    added = TrustAnchor("by hand", root.spki_sha256)
    verified = verify(report_of(folder), bag, (*GENUINE, added), moment(folder))
    assert verified.added_root
    assert verified.root == added
    assert verified.not_checked == NOT_GIVEN


@only("milan-v2-debug-policy")
def test_a_debug_guest_is_cryptographically_sound(folder: Path) -> None:
    verified = verify(report_of(folder), endorsements(folder), GENUINE, moment(folder))
    assert verified.fields["policy_bits"]["debug"] is True


@only("genoa-v3-certtable")
def test_a_host_certificate_table_is_enough(folder: Path) -> None:
    auxblob = (folder / "auxblob.bin").read_bytes()
    stated = vectors.meta(folder)["auxblob"]["entries"]
    assert list(certtable.parse(auxblob)) == [entry["guid"] for entry in stated]
    assert certtable.build(certtable.parse(auxblob)) == auxblob
    bag = certtable.certificates(auxblob)
    assert [hashlib.sha256(cert).hexdigest() for cert in bag.certificates] == [
        entry["sha256_of_certificate"] for entry in stated
    ]
    assert verify(report_of(folder), bag, GENUINE, moment(folder)).not_checked == NOT_GIVEN


@only("genoa-v2-unverifiable")
def test_the_vcek_of_another_tcb_does_not_verify(folder: Path) -> None:
    newer = folder.parent / "genoa-v5-vcek"
    with pytest.raises(ChainInvalid, match="another TCB") as caught:
        verify(report_of(folder), endorsements(newer), GENUINE, moment(newer))
    assert caught.value.code == "verify.chain.leaf"


@only("milan-v2-vcek")
def test_all_genuine_roots_are_the_pinned_ones(folder: Path) -> None:
    roots = {name: vectors.ROOT / "roots" / f"amd-ark-{name}.pem" for name in ("milan", "genoa", "turin")}
    found = [certs.parse_certificate(der(path)) for path in roots.values()]
    assert [(cert.common_name, cert.spki_sha256) for cert in found] == [(a.name, a.spki_sha256) for a in GENUINE]
    assert all(certs.signed_by(cert, cert) for cert in found)


@only("turin-v5-vcek")
def test_flipped_bits_of_genuine_certificates_are_refused(folder: Path) -> None:
    blob, bag, at = report_of(folder), endorsements(folder), moment(folder)
    objects = [*bag.certificates, *bag.crls]
    for index, original in enumerate(objects):
        for bit in range(index, 8 * len(original), 41):
            changed = bytearray(original)
            changed[bit // 8] ^= 1 << bit % 8
            spoilt = [*objects[:index], bytes(changed), *objects[index + 1 :]]
            bad = replace(bag, certificates=tuple(spoilt[:3]), crls=tuple(spoilt[3:]))
            with pytest.raises(VerificationError):
                verify(blob, bad, GENUINE, at)
