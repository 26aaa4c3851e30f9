"""A folder for many machines: what is picked for one piece of evidence, and what is refused as ambiguous."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.errors import FormatError, Oversized, VerificationError
from agent.core.model import Endorsements
from agent.verify.endorsements import Bounds
from agent.verify.evidence import verify_vendor
from agent.verify.inventory import inventory, warnings
from agent.verify.shelf import Shelf
from sim import pki_intel
from sim.export import Machine, export
from sim.keys import State
from sim.psp import GuestOptions, SecureProcessor
from sim.qe import DomainOptions, QuotingEnclave
from snp.words import Product
from tests.support import vectors
from tests.support.simulator import anchor, machine, pki_state

__all__ = ["pki_state"]
AT = datetime.now(UTC)


def enclave(state: Path, fmspc: bytes, monkeypatch: pytest.MonkeyPatch) -> QuotingEnclave:
    """A platform of another family under the same hierarchy."""
    with monkeypatch.context() as patch:
        patch.setattr(pki_intel, "FMSPC", fmspc)
        return QuotingEnclave(State(state), DomainOptions(), AT)


def judged(hardware: Machine, held: Endorsements) -> str:
    blob = hardware.report(bytes(64), 0).outblob
    return verify_vendor(blob, held, at=datetime.now(UTC), anchors=[anchor(hardware.root)]).tcb_status


@pytest.fixture
def families(pki_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[QuotingEnclave]]:
    """Three platforms' exports below tmp_path/shelf."""
    made = [enclave(pki_state, bytes([number]) * 6, monkeypatch) for number in (1, 2, 0xAB)]
    for number, hardware in enumerate(made):
        export(hardware, tmp_path / "shelf" / str(number))
        if number:
            # One enclave identity speaks for all platforms; exported twice it is not the same bytes.
            (tmp_path / "shelf" / str(number) / "qe_identity.json").unlink()
    yield made


def test_each_quote_gets_its_own_family_s_tcb_info(families: list[QuotingEnclave], tmp_path: Path) -> None:
    shelf = Shelf.load(tmp_path / "shelf")
    for hardware in families:
        held = shelf.select(hardware.report(bytes(64)).outblob)
        assert held.tcb_info == hardware.tcb_info
        assert judged(hardware, held) == "UpToDate"


def test_a_family_that_is_not_there_is_refused_not_left_out(
    families: list[QuotingEnclave], tmp_path: Path, pki_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = enclave(pki_state, bytes([9]) * 6, monkeypatch)
    held = Shelf.load(tmp_path / "shelf").select(stranger.report(bytes(64)).outblob)
    with pytest.raises(VerificationError) as caught:
        judged(stranger, held)
    assert caught.value.code == "verify.tcb.platform"


def test_two_statements_for_one_family_are_ambiguous(
    families: list[QuotingEnclave], tmp_path: Path, pki_state: Path
) -> None:
    again = families[0].hierarchy.tcb_info(AT.replace(year=AT.year - 1))
    body = again.replace(b"53494D000000", b"010101010101")
    (tmp_path / "shelf" / "copy").mkdir()
    (tmp_path / "shelf" / "copy" / "tcb_info.json").write_bytes(body)
    with pytest.raises(FormatError) as caught:
        Shelf.load(tmp_path / "shelf")
    assert caught.value.code == "format.ambiguous"
    assert "010101010101" in caught.value.message
    # The same bytes twice are one statement, and early ones have a place of their own.
    (tmp_path / "shelf" / "copy" / "tcb_info.json").write_bytes(families[0].tcb_info)
    Shelf.load(tmp_path / "shelf")


@pytest.mark.parametrize("name", ["early", "010101010101-early"])
def test_early_statements_are_taken_only_when_asked_for(
    name: str, families: list[QuotingEnclave], tmp_path: Path
) -> None:
    hardware = families[0]
    early = hardware.tcb_info.replace(b'"tcbEvaluationDataNumber":17', b'"tcbEvaluationDataNumber":18')
    folder = tmp_path / "shelf" / name
    folder.mkdir()
    (folder / "tcb_info.json").write_bytes(early)
    shelf, blob = Shelf.load(tmp_path / "shelf"), hardware.report(bytes(64)).outblob
    assert shelf.select(blob).tcb_info == hardware.tcb_info
    assert shelf.select(blob, "early").tcb_info == early
    other = families[1].report(bytes(64)).outblob
    assert shelf.select(other, "early").tcb_info == early, "of another family: the verifier refuses it"
    assert shelf.select(other, "early").qe_identity == b""


def test_a_chip_s_certificate_is_found_among_many(pki_state: Path, tmp_path: Path) -> None:
    chips = [
        machine("snp", pki_state, GuestOptions(product=product, tcb_steps={"reported": step}))
        for product in Product
        for step in range(3)
    ]
    for number, chip in enumerate(chips):
        export(chip, tmp_path / str(number))
    shelf = Shelf.load(tmp_path)
    for chip in chips:
        held = shelf.select(chip.report(bytes(64), 0).outblob)
        assert chip.certificates()["vcek"] in held.certificates
        assert len(held.certificates) <= 8 + 2 * len(Product)
        assert set(held.crls) >= set(chip.crls().values())
        judged(chip, held)


def test_nine_certificates_of_one_chip_are_no_crowd(pki_state: Path) -> None:
    """More than the verifier tries: the right one must be among the first."""
    chips = [machine("snp", pki_state, GuestOptions(tcb_steps={"reported": step})) for step in range(12)]
    shelf = Shelf()
    bag = Endorsements(
        tuple(der for chip in chips for der in chip.certificates().values()), chips[0].endorsements().crls
    )
    shelf = Shelf.of(bag)
    for chip in chips:
        judged(chip, shelf.select(chip.report(bytes(64), 0).outblob))


def test_the_other_vendor_s_statements_stay_behind(
    families: list[QuotingEnclave], tmp_path: Path, pki_state: Path
) -> None:
    chip = machine("snp", pki_state)
    export(chip, tmp_path / "shelf" / "amd")
    shelf = Shelf.load(tmp_path / "shelf")
    for_chip = shelf.select(chip.report(bytes(64), 0).outblob)
    assert set(for_chip.certificates) == set(chip.endorsements().certificates)
    assert (for_chip.crls, for_chip.tcb_info) == (chip.endorsements().crls, b"")
    assert judged(chip, for_chip) == "n/a"
    for_quote = shelf.select(families[0].report(bytes(64)).outblob)
    assert not set(for_quote.certificates) & set(chip.endorsements().certificates)


def test_a_damaged_crl_does_not_turn_revocation_off(pki_state: Path) -> None:
    chip = machine("snp", pki_state)
    good = chip.endorsements()
    broken = replace(good, crls=(good.crls[0][:-1] + bytes([good.crls[0][-1] ^ 1]),))
    with pytest.raises(VerificationError):
        judged(chip, Shelf.of(broken).select(chip.report(bytes(64), 0).outblob))


def test_a_crl_of_another_product_alone_is_refused(pki_state: Path) -> None:
    chip, other = machine("snp", pki_state), machine("snp", pki_state, GuestOptions(product=Product.MILAN))
    held = Shelf.of(replace(chip.endorsements(), crls=other.endorsements().crls))
    with pytest.raises(VerificationError) as caught:
        judged(chip, held.select(chip.report(bytes(64), 0).outblob))
    assert caught.value.code == "verify.chain.crl"


def test_a_vlek_names_no_chip(pki_state: Path) -> None:
    chip = machine("snp", pki_state, GuestOptions(signing_key="VLEK"))
    other = machine("snp", pki_state)
    both = chip.endorsements().merged(other.endorsements())
    judged(chip, Shelf.of(both).select(chip.report(bytes(64), 0).outblob))


@pytest.mark.parametrize("body", ["{}", "[]", '"x"', '{"id": 3, "fmspc": [1]}', '{"fmspc": "' + "f" * 10_000 + '"}'])
def test_statements_that_say_nothing_are_no_error(body: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(f'{{"tcbInfo": {body}}}')
    shelf = Shelf.load(tmp_path)
    assert isinstance(shelf.select(b"no evidence"), Endorsements)
    assert [row.state(AT) for row in inventory(tmp_path)] == ["unreadable"]


def test_bounds(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(bytes(10))
    (tmp_path / ".draft").write_bytes(bytes(1 << 21))
    Shelf.load(tmp_path, Bounds(3, 30))
    for bounds in (Bounds(2, 30), Bounds(3, 29)):
        with pytest.raises(Oversized):
            Shelf.load(tmp_path, bounds)


@pytest.mark.parametrize("folder", [*vectors.cases("snp"), *vectors.cases("tdx")])
def test_picking_from_a_genuine_folder_changes_no_verdict(folder: Path) -> None:
    """One machine's folder: the shelf hands over what the verifier can use, and nothing less."""
    from agent.verify.endorsements import load_folder

    blob = next(path for path in (folder / "report.bin", folder / "quote.bin") if path.exists()).read_bytes()
    said = vectors.meta(folder).get("verify_at")
    at = datetime.fromisoformat(said).astimezone(UTC) if said else AT

    def verdict(held: Endorsements) -> str:
        try:
            return verify_vendor(blob, held, at=at).tcb_status
        except (FormatError, VerificationError) as error:
            return error.code

    assert verdict(Shelf.load(folder).select(blob)) == verdict(load_folder(folder))


def test_inventory_says_what_ends_when(families: list[QuotingEnclave], tmp_path: Path, pki_state: Path) -> None:
    export(machine("snp", pki_state), tmp_path / "shelf" / "amd")
    rows = inventory(tmp_path / "shelf")
    assert {row.kind for row in rows} == {"certificate", "VCEK", "CRL", "TCB info", "QE identity"}
    assert {row.state(AT) for row in rows} == {"good"}
    late = AT.replace(year=AT.year + 1)
    assert {row.kind for row in rows if row.state(late) == "expired"} >= {"CRL", "TCB info", "QE identity"}
    assert warnings(rows, AT) == []
    assert len(warnings(rows, late)) >= 6
    json.dumps([row.to_json(AT) for row in rows])


def test_turin_s_short_id_in_a_report_that_says_no_product(pki_state: Path) -> None:
    chip = machine("snp", pki_state, GuestOptions(version=2, product=Product.TURIN))
    assert isinstance(chip, SecureProcessor)
    held = Shelf.of(chip.endorsements()).select(chip.report(bytes(64), 0).outblob)
    assert chip.certificates()["vcek"] in held.certificates
