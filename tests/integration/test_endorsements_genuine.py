"""Genuine statements of AMD and Intel, served as they serve them: fetched under the pinned roots, then judged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agent.collateral.cache import Cache
from agent.collateral.fetch import Fetcher, Services
from agent.collateral.keeper import Outcome
from agent.core.errors import VerificationError
from agent.deadline import Deadline
from agent.verify.endorsements import sort
from agent.verify.evidence import genuine_anchors, verify_vendor
from agent.verify.shelf import Shelf
from snp import abi, certs, kds
from snp.words import Product
from tdx import pcs
from tests.support import vectors
from tests.support.clock import FakeClock
from tests.support.vendor import Reply, Vendor, running_vendor


def complete(kind: str, *needed: str) -> list[Any]:
    """Good vectors that have all these files."""
    found = [case for case in vectors.cases(kind) if case.values[0] and "neg-" not in case.values[0].name]
    return [case for case in found if all((case.values[0] / name).exists() for name in needed)]


SNP = complete("snp", "vcek.pem", "ask.pem", "ark.pem", "crl.der")
TDX = complete("tdx", "collateral/tcb_info.json", "collateral/pck_crl.der", "collateral/root_ca_crl.der")


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Vendor]:
    with running_vendor(tmp_path) as running:
        yield running


def instant(folder: Path) -> datetime:
    return datetime.fromisoformat(vectors.meta(folder)["verify_at"]).astimezone(UTC)


def fetch(vendor: Vendor, folder: Path, cache: Path, blob: bytes, product: str = "") -> tuple[Outcome, ...]:
    at = instant(folder)
    services = Services(vendor.url, vendor.url, vendor.url + pcs.ROOT_CRL_PATH, authorities=vendor.authority)
    fetcher = Fetcher(Cache(cache), services, genuine_anchors(), lambda: at)
    return fetcher.for_evidence(blob, b"", Deadline(60, "test", FakeClock()), product)


@pytest.mark.parametrize("folder", SNP)
def test_snp(folder: Path, vendor: Vendor, tmp_path: Path) -> None:
    blob = (folder / "report.bin").read_bytes()
    report = abi.parse(blob)
    leaf = next(der for kind, der in sort((folder / "vcek.pem").read_bytes(), "vcek") if kind == "certificate")
    product = report.product or Product(values_of(leaf))
    vendor.replies[kds.vcek_path(report, product)] = Reply(leaf)
    vendor.replies[kds.chain_path("VCEK", product)] = Reply(
        (folder / "ask.pem").read_bytes() + (folder / "ark.pem").read_bytes()
    )
    vendor.replies[kds.crl_path("VCEK", product)] = Reply((folder / "crl.der").read_bytes())
    rows = fetch(vendor, folder, tmp_path / "cache", blob, "" if report.product else str(product))
    assert {(row.action, row.problem) for row in rows} == {("fetched", "")}
    verified = verify_vendor(blob, Shelf.load(tmp_path / "cache").select(blob), at=instant(folder))
    assert (verified.added_root, verified.revocation.startswith("as of")) == (False, True)


def values_of(leaf: bytes) -> str:
    """The product that a VCEK names, without its stepping."""
    return certs.leaf_values(certs.parse_certificate(leaf)).product_name.partition("-")[0]


@pytest.mark.parametrize("folder", TDX)
def test_tdx(folder: Path, vendor: Vendor, tmp_path: Path) -> None:
    blob = (folder / "quote.bin").read_bytes()
    target = pcs.target(blob)

    def served(body: str, chain: str, header: str) -> Reply:
        pem = (folder / "collateral" / chain).read_bytes()
        return Reply((folder / "collateral" / body).read_bytes(), headers={header: quote(pem)})

    vendor.replies = {
        pcs.tcb_info_path(target.fmspc): served("tcb_info.json", "tcb_info_issuer_chain.pem", "TCB-Info-Issuer-Chain"),
        pcs.qe_identity_path(): served(
            "qe_identity.json", "qe_identity_issuer_chain.pem", "SGX-Enclave-Identity-Issuer-Chain"
        ),
        pcs.pck_crl_path(target.ca): served("pck_crl.der", "pck_crl_issuer_chain.pem", "SGX-PCK-CRL-Issuer-Chain"),
        pcs.ROOT_CRL_PATH: Reply((folder / "collateral" / "root_ca_crl.der").read_bytes()),
    }
    rows = fetch(vendor, folder, tmp_path / "cache", blob)
    assert {(row.action, row.problem) for row in rows} == {("fetched", "")}
    try:
        held = Shelf.load(tmp_path / "cache").select(blob)
        status = verify_vendor(blob, held, at=instant(folder)).tcb_status
    except VerificationError as error:
        status = {"verify.tcb.no-level": "NoMatchingLevel"}.get(error.code, error.code)
    # Statements that condemn the platform are stored like any other.
    assert status == vectors.meta(folder)["tcb_status"]
