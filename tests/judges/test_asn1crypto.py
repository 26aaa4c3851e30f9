"""asn1crypto, a third reader: what it finds in the vendors' certificates and CRLs is what our own parsers find.

It reads the VCEK's serial number 0 without complaint, and is in Debian 13.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import core, crl, x509

from agent.core import der as our_der
from agent.core.model import Endorsements
from agent.core.x509 import Certificate
from agent.verify.endorsements import load_folder
from sim import quirks
from sim.keys import State
from sim.psp import GuestOptions, SecureProcessor
from sim.qe import DomainOptions, QuotingEnclave
from snp import certs as amd
from snp.words import Product
from tdx import abi, chain, pck
from tdx import certs as intel
from tests.support import vectors

NOW = datetime.now(UTC)
AMD = "1.3.6.1.4.1.3704.1"
SGX = "1.2.840.113741.1.13.1"
SPLS = {
    "bootloader": "3.1",
    "tee": "3.2",
    "snp": "3.3",
    "spl_4": "3.4",
    "spl_5": "3.5",
    "spl_6": "3.6",
    "spl_7": "3.7",
    "microcode": "3.8",
    "fmc": "3.9",
}
FOLDERS = [*vectors.cases("snp"), *vectors.cases("tdx")]


def extensions(certificate: Any) -> dict[str, bytes]:
    """OID to the content of the OCTET STRING."""
    found = certificate["tbs_certificate"]["extensions"]
    return {one["extn_id"].dotted: one["extn_value"].contents for one in found}


def compare_certificate(data: bytes) -> None:
    """Serial, dates, names, key and extensions, by AMD's reader or Intel's."""
    theirs = x509.Certificate.load(data, strict=True)
    rsa = theirs["signature_algorithm"]["algorithm"].native == "rsassa_pss"
    ours: Certificate = amd.parse_certificate(data) if rsa else intel.load_certificate(data, "certificate")
    body = theirs["tbs_certificate"]
    assert ours.serial == theirs.serial_number
    assert (ours.not_before, ours.not_after) == (theirs.not_valid_before, theirs.not_valid_after)
    assert (ours.issuer, ours.subject) == (body["issuer"].dump(), body["subject"].dump())
    assert ours.common_name == theirs.subject.native["common_name"]
    assert ours.spki == body["subject_public_key_info"].dump()
    assert (ours.tbs, ours.signature) == (body.dump(), theirs.signature)
    assert {our_der.dotted(oid): one.value for oid, one in ours.extensions.items()} == extensions(theirs)
    critical = {one["extn_id"].dotted for one in body["extensions"] if one["critical"].native}
    assert {our_der.dotted(oid) for oid, one in ours.extensions.items() if one.critical} == critical
    assert ours.authority() is bool(theirs.ca)


def compare_amd_leaf(data: bytes) -> None:
    """AMD's own extensions: SPLs and structVersion INTEGERs, names IA5Strings, the hardware id bare."""
    found = extensions(x509.Certificate.load(data, strict=True))
    values = amd.leaf_values(amd.parse_certificate(data))
    spls = {name: found[f"{AMD}.{arc}"] for name, arc in SPLS.items() if f"{AMD}.{arc}" in found}
    assert values.spls == {name: core.Integer.load(value, strict=True).native for name, value in spls.items()}
    assert values.struct_version == core.Integer.load(found[f"{AMD}.1"], strict=True).native
    assert values.product_name == core.IA5String.load(found[f"{AMD}.2"], strict=True).native
    assert values.hwid == found.get(f"{AMD}.4", b"")
    csp_id = found.get(f"{AMD}.5")
    assert values.csp_id == (core.IA5String.load(csp_id, strict=True).native if csp_id else "")


def members(sequence: Any) -> dict[str, Any]:
    """SEQUENCE OF { OID, value }: values by OID."""
    return {sequence[index][0].dotted: sequence[index][1] for index in range(len(sequence))}


def compare_pck(data: bytes) -> None:
    """Intel's SGX extension, all the way down."""
    value = extensions(x509.Certificate.load(data, strict=True))[SGX]
    found = members(core.Sequence.load(value, strict=True))
    below = members(found[f"{SGX}.2"])
    ours = pck.parse_extension(value)
    parts = {number: found[f"{SGX}.{number}"].native for number in (1, 3, 4)}
    assert (ours.ppid, ours.pceid, ours.fmspc) == (parts[1], parts[3], parts[4])
    assert ours.components == tuple(below[f"{SGX}.2.{number}"].native for number in range(1, 17))
    assert (ours.pcesvn, ours.cpusvn) == (below[f"{SGX}.2.17"].native, below[f"{SGX}.2.18"].native)


def compare_crl(data: bytes) -> int:
    """Issuer, dates, and every number revoked; how many there are."""
    theirs = crl.CertificateList.load(data, strict=True)
    body = theirs["tbs_cert_list"]
    rsa = theirs["signature_algorithm"]["algorithm"].native == "rsassa_pss"
    ours = amd.parse_crl(data) if rsa else intel.load_crl(data)
    assert ours.issuer == body["issuer"].dump()
    assert (ours.this_update, ours.next_update) == (body["this_update"].native, body["next_update"].native)
    listed = body["revoked_certificates"].native or []
    for entry in listed:
        assert ours.revoked_at(entry["user_certificate"]) == entry["revocation_date"]
    numbers = {entry["user_certificate"] for entry in listed}
    assert all(ours.revoked_at(number + 1) is None for number in numbers if number + 1 not in numbers)
    return len(numbers)


@functools.cache
def endorsements(folder: Path) -> Endorsements:
    return load_folder(folder)


def in_quotes(folder: Path) -> Iterator[bytes]:
    quote = folder / "quote.bin"
    if quote.is_file() and folder.name != "neg-signature-len-overflow":
        yield from chain.split_pem(abi.parse(quote.read_bytes()).certificates)


@pytest.mark.parametrize("folder", FOLDERS)
def test_genuine_certificates_and_crls(folder: Path) -> None:
    found = [*endorsements(folder).certificates, *in_quotes(folder)]
    for data in found:
        compare_certificate(data)
    for data in endorsements(folder).crls:
        compare_crl(data)
    names = {data: x509.Certificate.load(data).subject.native["common_name"] for data in found}
    leaves = [data for data, name in names.items() if name in {"SEV-VCEK", "SEV-VLEK"}]
    for data in leaves:
        compare_amd_leaf(data)
    platforms = [data for data, name in names.items() if name == "Intel SGX PCK Certificate"]
    for data in platforms:
        compare_pck(data)
    assert len(leaves) + len(platforms) == (0 if folder.name.endswith("unverifiable") else 1)


def test_genoas_crl_lists_an_older_issuer() -> None:
    folder = vectors.ROOT / "snp" / "genoa-v5-vcek"
    if not folder.is_dir():
        pytest.skip(f"no vectors at {vectors.ROOT}: set TEE_AGENT_VECTORS")
    assert compare_crl((folder / "crl.der").read_bytes()) >= 1


@pytest.mark.parametrize("product", Product)
@pytest.mark.parametrize("names", [(), ("vlek",), ("issuer-revoked",)])
def test_simulated_amd(product: Product, names: tuple[str, ...], pki_state: Path) -> None:
    options = quirks.with_quirks(GuestOptions(product=product), names)
    chip = SecureProcessor(State(pki_state), options, NOW)
    for data in chip.certificates().values():
        compare_certificate(data)
    compare_amd_leaf(chip.leaf)
    assert compare_crl(chip.crls()["ark"]) == (names == ("issuer-revoked",))


@pytest.mark.parametrize("names", [(), ("pck-revoked",)])
def test_simulated_intel(names: tuple[str, ...], pki_state: Path) -> None:
    domain = QuotingEnclave(State(pki_state), quirks.with_quirks(DomainOptions(), names), NOW)
    for data in domain.certificates().values():
        compare_certificate(data)
    compare_pck(domain.certificates()["pck"])
    assert [compare_crl(data) for data in domain.crls().values()] == [0, len(names)]
