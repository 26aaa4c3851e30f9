"""Quirks of real hardware, by name, on genuine evidence: through the verifiers and through the command line.

Each quirk says what it is, shows that the vector has it, and what is decided.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import snp.abi
import tdx.abi
from agent.cli import main
from agent.core.errors import TeeAgentError
from agent.core.model import Endorsements, Verified
from agent.core.policy import FLOOR_NAMES
from agent.verify.endorsements import certificates_in_pem, load_folder
from agent.verify.evidence import verify_vendor
from snp import certs, certtable
from tests.support import vectors

Fields = dict[str, Any]
AKI = bytes.fromhex("551d23")
SNP_OK = [name for name in (case.id for case in vectors.cases("snp")) if name and "neg-" not in name]
SNP_OK = [name for name in SNP_OK if "unverifiable" not in name and name != "absent"]


@dataclass(frozen=True)
class Quirk:
    """``code`` is the error expected, "" for none; ``holds`` shows the quirk in the fields that come out."""

    name: str
    vector: str
    code: str = ""
    holds: Callable[[Fields], bool] = bool


def svn2(fields: Fields) -> bool:
    detail = fields["tcb_status_detail"]
    return bool(fields["tee_tcb_svn"] != fields["tee_tcb_svn_2"] and detail["tdx_module_status"] == "OutOfDate")


QUIRKS = [
    Quirk("padded-with-70-zeros", "tdx/v4-uptodate-2025", holds=lambda f: f["trailing_bytes"] == 70),
    Quirk("padded-to-8000", "tdx/v4-uptodate-2026-01", holds=lambda f: f["quote_len"] + f["trailing_bytes"] == 8000),
    Quirk("padded-gcp", "tdx/v4-gcp-ccel", holds=lambda f: f["trailing_bytes"] > 307),
    Quirk("no-matching-tcb-level-module", "tdx/v4-spr-2023-no-tcb-level", "verify.tcb.no-level"),
    Quirk("no-matching-tcb-level-platform", "tdx/v5-no-tcb-level", "verify.tcb.no-level"),
    Quirk("two-svns-differ-relaunch-advised", "tdx/v5-relaunch-advised", holds=svn2),
    Quirk("pre-production-root", "tdx/v4-preproduction-root", "verify.untrusted-root"),
    Quirk("chain-swapped", "tdx/neg-pck-chain-swapped", "verify.chain"),
    Quirk("signature-length-past-the-end", "tdx/neg-signature-len-overflow", "format.truncated"),
    Quirk("debug-td", "tdx/v4-debug-td", holds=lambda f: f["td_debug"] is True),
    Quirk("service-td", "tdx/v5-outofdate-eval21", holds=lambda f: f["mr_service_td"].strip("0") != ""),
    Quirk("no-sept-ve-disable", "tdx/v4-azure-outofdate", holds=lambda f: f["td_attributes"] == "00" * 8),
    Quirk("module-version-0", "tdx/v4-debug-td", holds=lambda f: f["tee_tcb_svn"][2:4] == "00"),
    Quirk(
        "reported-tcb-below-committed",
        "snp/milan-v3-tcb-skew",
        holds=lambda f: (f["reported_tcb"]["snp"], f["committed_tcb"]["snp"], f["current_tcb"]["snp"]) == (23, 24, 24),
    ),
    Quirk(
        "current-tcb-above-committed",
        "snp/milan-v2-tcb-skew",
        holds=lambda f: f["current_tcb"]["microcode"] > f["committed_tcb"]["microcode"],
    ),
    Quirk(
        "vlek-zero-chip-id-vmpl-1",
        "snp/milan-v3-vlek-aws",
        holds=lambda f: (
            (f["chip_id"], f["vmpl"], f["csp_id"]) == ("00" * 64, 1, "CN=cc-us-east-2.amazonaws.com")
            and f["reported_tcb"]["microcode"] < f["committed_tcb"]["microcode"] < f["current_tcb"]["microcode"]
        ),
    ),
    Quirk("debug-guest", "snp/milan-v2-debug-policy", holds=lambda f: f["policy_bits"]["debug"] is True),
    Quirk(
        "turin-short-chip-id",
        "snp/turin-v5-vcek",
        holds=lambda f: f["chip_id"][16:] == "00" * 56 and "fmc" in f["reported_tcb"],
    ),
    Quirk("trailing-garbage", "snp/neg-trailing-garbage", "format.oversized"),
    Quirk("unknown-version", "snp/neg-unknown-version", "format.version"),
    Quirk("fake-root-with-amds-names", "snp/neg-fake-root", "verify.untrusted-root"),
]


def folder_of(vector: str) -> Path:
    path = vectors.ROOT / vector
    if not path.is_dir():
        pytest.skip(f"no vectors at {vectors.ROOT}: set TEE_AGENT_VECTORS")
    return path


def file_of(folder: Path) -> Path:
    return folder / ("report.bin" if folder.parent.name == "snp" else "quote.bin")


@functools.cache
def endorsements(folder: Path) -> Endorsements:
    return load_folder(folder)


def at(folder: Path) -> datetime:
    return datetime.fromisoformat(vectors.meta(folder)["verify_at"])


def judge(folder: Path, blob: bytes | None = None, bag: Endorsements | None = None) -> Verified:
    blob = file_of(folder).read_bytes() if blob is None else blob
    return verify_vendor(blob, endorsements(folder) if bag is None else bag, at=at(folder))


@pytest.mark.parametrize("quirk", [pytest.param(quirk, id=quirk.name) for quirk in QUIRKS])
def test_quirk(quirk: Quirk, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(quirk.vector)
    code, fields = "", {}
    try:
        fields = dict(judge(folder).fields)
    except TeeAgentError as error:
        code = error.code
    assert code == quirk.code
    assert code or quirk.holds(fields)

    words = ["evidence", "verify", str(file_of(folder)), "--certs", str(folder), "--json"]
    words += ["--at", vectors.meta(folder)["verify_at"], "--allow", ",".join(FLOOR_NAMES)]
    status = main(words)
    found = json.loads(capsys.readouterr().out)
    assert (status, (found["error"] or {}).get("code", "")) == (65 if code else 0, code)
    assert code or quirk.holds(found["fields"])


@pytest.mark.parametrize("zeros", [0, 1, 70, 307, 3000, 8000])
def test_quirk_zero_padding_is_accepted_other_trailing_bytes_are_not(zeros: int, tmp_path: Path) -> None:
    folder = folder_of("tdx/v5-uptodate")
    quote = file_of(folder).read_bytes()
    assert judge(folder, quote + bytes(zeros)).fields["trailing_bytes"] == zeros
    for tail in (b"\1", bytes(zeros) + b"\x80", b"\n" + bytes(zeros), bytes(zeros) + quote):
        with pytest.raises(TeeAgentError, match="unexpected data after") as caught:
            judge(folder, quote + tail)
        assert caught.value.code == "format.oversized"
    with pytest.raises(TeeAgentError, match="are allowed"):
        judge(folder, quote.ljust(tdx.abi.MAX_QUOTE + 1, b"\0"))
    evidence = tmp_path / "quote.bin"
    words = ["evidence", "verify", str(evidence), "--collateral", str(folder / "collateral")]
    for tail, status in ((bytes(zeros), 0), (bytes(zeros) + b"\1", 65)):
        evidence.write_bytes(quote + tail)
        assert main([*words, "--at", vectors.meta(folder)["verify_at"]]) == status


@pytest.mark.parametrize("name", SNP_OK)
def test_quirk_serial_zero_without_aki_hardware_id_raw_spls_integers(name: str) -> None:
    folder = folder_of(f"snp/{name}")
    report = snp.abi.parse(file_of(folder).read_bytes())
    bag = [certs.parse_certificate(der) for der in endorsements(folder).certificates]
    leaf = next(one for one in bag if one.common_name.startswith("SEV-V") and "-VLEK-" not in one.common_name)
    assert leaf.serial == 0
    assert AKI not in leaf.extensions
    arc = bytes.fromhex("2b060104019c7801")
    assert all(leaf.extensions[arc + bytes([3, part])].value[0] == 2 for part in (1, 2, 3, 8))
    hwid = leaf.extensions.get(arc + b"\4")
    if report.signing_key == "VCEK":
        assert hwid
        size = 8 if report.product == "Turin" else 64
        assert (len(hwid.value), report.chip_id) == (size, hwid.value.ljust(64, b"\0"))
    else:
        assert hwid is None
    assert judge(folder).fields["chip_id"] == report.chip_id.hex()


@pytest.mark.parametrize("name", ["genoa-v3-azure", "genoa-v3-certtable", "genoa-v5-vcek"])
def test_quirk_genoa_crl_revokes_an_older_issuer_not_todays(name: str) -> None:
    folder = folder_of(f"snp/{name}")
    (revocation,) = [certs.parse_crl(der) for der in endorsements(folder).crls]
    assert revocation.revoked_at(0x20001) is not None
    assert revocation.revoked_at(0x20002) is None
    assert judge(folder).revocation.startswith("as of ")


def test_quirk_report_version_follows_firmware_not_product() -> None:
    """One chip gave version 2 under 1.55.24 and version 5 under 1.55.43; one product gives several, two share one."""
    older, newer = (
        snp.abi.parse(file_of(folder_of(f"snp/{name}")).read_bytes())
        for name in ("genoa-v2-unverifiable", "genoa-v5-vcek")
    )
    assert older.chip_id == newer.chip_id
    assert (older.version, older.current_build) == (2, 24)
    assert (newer.version, newer.current_build) == (5, 43)
    products: dict[str, set[int]] = {}
    for case in vectors.cases("snp"):
        meta = vectors.meta(Path(str(case.values[0])))
        products.setdefault(meta["product"], set()).add(meta["report_version"])
    assert products == {"Milan": {2, 3, 4}, "Genoa": {2, 3, 5}, "Turin": {5}}


TDX_COLLATERAL = ["v4-uptodate-2025", "v4-uptodate-2026-01", "v5-uptodate", "v5-relaunch-advised", "v4-gcp-ccel"]


@pytest.mark.parametrize("name", TDX_COLLATERAL)
def test_quirk_tcb_signer_re_issued_with_the_same_key(name: str) -> None:
    """Intel issued one certificate twice, with other dates: either serves while it is in date, and the old one no longer."""
    folder = folder_of(f"tdx/{name}")
    files = [vectors.ROOT / "roots" / f"intel-tcb-signing-{year}.pem" for year in (2018, 2025)]
    signers = [certificates_in_pem(file.read_bytes(), file.name)[0] for file in files]
    given = endorsements(folder)
    others = tuple(der for der in given.certificates if der not in signers)
    for both in (signers, signers[::-1]):
        assert judge(folder, bag=replace(given, certificates=(*others, *both))).tcb_status == judge(folder).tcb_status
    old_is_good = at(folder) <= datetime.fromisoformat("2025-05-21T10:50:10Z")
    old = replace(given, certificates=(*others, signers[0]))
    if old_is_good:
        assert judge(folder, bag=old).tcb_status == judge(folder).tcb_status
    else:
        with pytest.raises(TeeAgentError, match="TCB Signing"):
            judge(folder, bag=old)


def test_quirk_host_table_in_pem() -> None:
    folder = folder_of("snp/genoa-v3-certtable")
    auxblob = (folder / "auxblob.bin").read_bytes()
    entries = certtable.parse(auxblob)
    assert all(content.startswith(b"-----BEGIN CERTIFICATE-----") for content in entries.values())
    bag = certtable.certificates(auxblob)
    assert {hashlib.sha256(der).digest() for der in bag.certificates} <= {
        hashlib.sha256(der).digest() for der in endorsements(folder).certificates
    }
    assert judge(folder, bag=bag).revocation == "not checked"
