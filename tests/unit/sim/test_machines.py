"""What the simulated hardware makes: forms, extensions, and that the verifiers believe it under its own root only."""

from __future__ import annotations

import hashlib
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

import snp.roots
import snp.verify
import tdx.roots
import tdx.verify
from agent.core.errors import Conflict, UntrustedRoot
from agent.core.model import ReportData
from sim import der, keys, pki_amd
from sim.export import export
from sim.keys import State
from sim.psp import GuestOptions, SecureProcessor, default_measurement
from sim.qe import DELIVERED, DomainOptions, QuotingEnclave
from snp import abi, certtable
from snp.words import Product
from tdx import abi as tdx_abi
from tests.support.simulator import anchor, machine

DATA = bytes(range(64))
NOW = datetime.now(UTC)


@pytest.mark.parametrize("product", Product)
@pytest.mark.parametrize("version", [2, 3, 5])
def test_snp_evidence_is_believed_under_its_root_only(pki_state: Path, version: int, product: Product) -> None:
    chip = SecureProcessor(State(pki_state), GuestOptions(version=version, product=product), NOW)
    blob = chip.report(DATA, 1).outblob
    verified = snp.verify.verify(blob, chip.endorsements(), [anchor(chip.root)], NOW, report_data=ReportData(DATA))
    assert (verified.version, verified.added_root) == (version, True)
    assert verified.revocation.startswith("as of ")
    assert not verified.not_checked
    assert verified.fields["measurement"] == default_measurement().hex()
    assert verified.fields["vmpl"] == 1
    with pytest.raises(UntrustedRoot):
        snp.verify.verify(blob, chip.endorsements(), snp.roots.GENUINE, NOW)


def test_the_certificate_table_is_enough_without_revocation(pki_state: Path) -> None:
    chip = SecureProcessor(State(pki_state), GuestOptions(), NOW)
    made = chip.report(DATA, 0)
    bag = certtable.certificates(made.auxblob)
    assert len(bag.certificates) == 3
    verified = snp.verify.verify(made.outblob, bag, [anchor(chip.root)], NOW)
    assert verified.revocation == "not checked"


@pytest.mark.parametrize("product", Product)
def test_vcek_has_amds_form(pki_state: Path, product: Product) -> None:
    chip = SecureProcessor(State(pki_state), GuestOptions(product=product), NOW)
    # version 3, serial number 0: what cryptography's builder refuses
    assert bytes.fromhex("a003020102020100") in chip.leaf[:24]
    report = abi.parse(chip.report(DATA, 0).outblob)
    hwid = report.chip_id[:8] if product is Product.TURIN else report.chip_id
    assert der.oid("1.3.6.1.4.1.3704.1.4") + der.octets(hwid) in chip.leaf
    assert (der.oid("1.3.6.1.4.1.3704.1.3.9") in chip.leaf) == (product is Product.TURIN)
    assert (report.chip_id[8:] == bytes(56)) == (product is Product.TURIN)


def test_guest_options_show_in_the_report(pki_state: Path) -> None:
    options = GuestOptions(version=5, measurement=b"m" * 48, host_data=b"h" * 32, debug=True, vmpl_floor=2)
    chip = SecureProcessor(State(pki_state), options, NOW)
    assert chip.privlevel_floor == 2
    fields = abi.parse(chip.report(DATA, 3).outblob).fields()
    assert (fields["measurement"], fields["host_data"]) == ((b"m" * 48).hex(), (b"h" * 32).hex())
    assert (fields["vmpl"], fields["policy_bits"]["debug"], fields["report_data"]) == (3, True, DATA.hex())


def test_debug_by_request(pki_state: Path) -> None:
    chip, domain = machine("snp", pki_state), machine("tdx", pki_state)
    for wanted in (False, True):
        report = abi.parse(chip.report(DATA, 0, debug=wanted).outblob)
        assert report.fields()["policy_bits"]["debug"] is wanted
        assert tdx_abi.parse(domain.report(DATA, 0, debug=wanted).outblob).body.debug is wanted


def test_a_revoked_ask_is_in_the_crl(pki_state: Path) -> None:
    hierarchy = pki_amd.hierarchy(State(pki_state), Product.GENOA, NOW)
    crl = hierarchy.crl(NOW, [hierarchy.ask.serial_number])
    assert [entry.serial_number for entry in crl] == [hierarchy.ask.serial_number]


def test_tdx_quote_has_the_genuine_form(pki_state: Path) -> None:
    mr_td, rtmr0, rtmr1, rtmr2, rtmr3 = (bytes([index]) * 48 for index in range(1, 6))
    options = DomainOptions(mr_td, rtmr0=rtmr0, rtmr1=rtmr1, rtmr2=rtmr2, rtmr3=rtmr3)
    domain = QuotingEnclave(State(pki_state), options, NOW)
    blob = domain.report(DATA).outblob
    assert len(blob) == DELIVERED
    quote = tdx_abi.parse(blob)
    assert quote.header.version == 4
    assert quote.trailing == DELIVERED - len(quote.data) > 0
    assert quote.encode() == quote.data
    body = quote.body
    assert (body.mr_td, body.rtmr0, body.rtmr1, body.rtmr2, body.rtmr3) == (mr_td, rtmr0, rtmr1, rtmr2, rtmr3)
    binding = hashlib.sha256(quote.attestation_key + quote.auth_data).digest()
    assert quote.qe_report.report_data == binding + bytes(32)


def test_tdx_evidence_is_believed_under_its_root_only(pki_state: Path) -> None:
    domain = QuotingEnclave(State(pki_state), DomainOptions(), NOW)
    blob = domain.report(DATA).outblob
    verified = tdx.verify.verify(blob, domain.endorsements(), [anchor(domain.root)], NOW, report_data=ReportData(DATA))
    assert (verified.version, verified.added_root, verified.tcb_status) == (4, True, "UpToDate")
    assert verified.revocation.startswith("as of ")
    assert not verified.not_checked
    assert verified.fields["rtmr3"] == "00" * 48
    with pytest.raises(UntrustedRoot):
        tdx.verify.verify(blob, domain.endorsements(), tdx.roots.GENUINE, NOW)


def test_tdx_has_no_privilege_levels(pki_state: Path) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        machine("tdx", pki_state).report(DATA, 1)


def test_collateral_is_in_date_for_thirty_days(pki_state: Path) -> None:
    domain = QuotingEnclave(State(pki_state), DomainOptions(), NOW)
    for body, key in ((domain.tcb_info, "tcbInfo"), (domain.qe_identity, "enclaveIdentity")):
        inner = json.loads(body)[key]
        issued, following = (datetime.fromisoformat(inner[name]) for name in ("issueDate", "nextUpdate"))
        assert issued < NOW < following == issued + timedelta(days=31)


def test_hierarchies_are_kept_and_private(tmp_path: Path, pki_state: Path) -> None:
    first, second = (QuotingEnclave(State(tmp_path / "s"), DomainOptions(), NOW) for _ in range(2))
    assert first.root == second.root
    assert first.root != QuotingEnclave(State(pki_state), DomainOptions(), NOW).root
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "s").glob("*.key")} == {0o600}


def test_a_spoilt_state_folder_is_named(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.rsa_key("intel-root")
    with pytest.raises(Conflict, match=r"intel-root\.key"):
        QuotingEnclave(state, DomainOptions(), NOW)


@pytest.mark.parametrize("tee", ["snp", "tdx"])
def test_every_name_is_marked(pki_state: Path, tee: str) -> None:
    made = machine(tee, pki_state)
    for encoded in made.certificates().values():
        assert encoded.count(keys.ORGANISATION.encode()) == 2, "issuer and subject"


@pytest.mark.parametrize("tee", ["snp", "tdx"])
def test_export(tmp_path: Path, pki_state: Path, tee: str) -> None:
    made = machine(tee, pki_state)
    export(made, tmp_path)
    export(made, tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    expected = {
        "snp": {"root.pem", "certs/ark.pem", "certs/ask.pem", "certs/vcek.pem", "crls/ark.der"},
        "tdx": {"root.pem", "tcb_info.json", "qe_identity.json", "crls/root-ca.der", "crls/pck-platform-ca.der"}
        | {f"certs/{name}.pem" for name in ("pck", "pck-platform-ca", "root-ca", "tcb-signing")},
    }
    assert names == expected[tee]
    assert x509.load_pem_x509_certificate((tmp_path / "root.pem").read_bytes()) == made.root
    assert (tmp_path / "certs" / ("vcek.pem" if tee == "snp" else "pck.pem")).read_text().endswith("-----\n")


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (der.integer(0), "020100"),
        (der.integer(127), "02017f"),
        (der.integer(219), "020200db"),
        (der.oid("1.3.6.1.4.1.3704.1.3.9"), "060a2b060104019c78010309"),
        (der.oid("1.2.840.113741.1.13.1"), "06092a864886f84d010d01"),
        (der.octets(bytes(200))[:3], "0481c8"),
        (der.octets(bytes(300))[:4], "0482012c"),
        (der.bits(b"\x01"), "03020001"),
        (der.ia5("Genoa"), "160547656e6f61"),
        (der.boolean(True) + der.boolean(False), "0101ff010100"),
        (der.enumerated(1), "0a0101"),
        (der.sequence(der.integer(1)), "3003020101"),
    ],
)
def test_der(encoded: bytes, expected: str) -> None:
    assert encoded.hex() == expected
