"""Evidence of both kinds through one door: detection, roots, floor and policy, over the genuine vectors."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import FormatError, PolicyViolation, TeeAgentError, Truncated, UntrustedRoot
from agent.core.model import Endorsements, Tee
from agent.core.policy import FLOOR_NAMES, Floor, Policy
from agent.verify.endorsements import from_auxblob, load_folder
from agent.verify.evidence import (
    anchor_from_pem,
    appraised_fields,
    detect,
    genuine_anchors,
    parse_fields,
    signature_valid,
    unpadded,
    verify_evidence,
)
from tests.support import vectors

NOT_THE_VENDORS = {"neg-fake-root", "v4-preproduction-root"}
BELOW_THE_FLOOR = {
    "milan-v2-debug-policy": "floor: debug",
    "milan-v3-vlek-aws": "floor: vmpl",
    "v4-debug-td": "floor: debug",
    "v4-azure-outofdate": "floor: sept-ve",
}
NO_TCB_LEVEL = {"v4-spr-2023-no-tcb-level", "v5-no-tcb-level"}
ALL = [*vectors.cases("snp"), *vectors.cases("tdx")]


def load(folder: Path) -> tuple[bytes, Endorsements, datetime]:
    name = "report.bin" if folder.parent.name == "snp" else "quote.bin"
    at = vectors.meta(folder)["verify_at"] or "2025-09-01T00:00:00Z"
    return (folder / name).read_bytes(), load_folder(folder), datetime.fromisoformat(at)


def vector(kind: str, name: str) -> Path:
    path = vectors.ROOT / kind / name
    if not path.is_dir():
        pytest.skip(f"no vectors at {vectors.ROOT}: set TEE_AGENT_VECTORS")
    return path


@pytest.mark.parametrize("folder", ALL)
def test_verdicts(folder: Path) -> None:
    """Whole verdicts under the full floor: what is genuine and neither debuggable nor below a level passes."""
    meta, (blob, endorsements, at) = vectors.meta(folder), load(folder)
    name = folder.name
    good = not name.startswith("neg-") and meta["signature_valid"] and name not in NOT_THE_VENDORS | NO_TCB_LEVEL
    if not good:
        with pytest.raises(TeeAgentError) as caught:
            verify_evidence(blob, endorsements, at=at)
        assert caught.value.exit_status == 65
        return
    if name in BELOW_THE_FLOOR:
        with pytest.raises(PolicyViolation) as violated:
            verify_evidence(blob, endorsements, at=at)
        assert violated.value.checks[-1].name == BELOW_THE_FLOOR[name]
        assert violated.value.code == "verify.policy.floor"
    verified = verify_evidence(blob, endorsements, at=at, floor=Floor(allow=FLOOR_NAMES))
    assert not verified.added_root
    assert verified.tcb_status == meta["tcb_status"]
    expected = meta["expected"]
    assert {key: verified.fields.get(key) for key in expected} == expected


@pytest.mark.parametrize("folder", ALL)
def test_signature_valid_as_the_vector_says(folder: Path) -> None:
    blob, endorsements, at = load(folder)
    meta = vectors.meta(folder)
    try:
        found = signature_valid(blob, endorsements, at)
    except FormatError:
        assert folder.name.startswith("neg-")
        return
    # A chain in the wrong order is not followed: there is nothing to say about signatures then.
    assert found == (None if folder.name == "neg-pck-chain-swapped" else meta["signature_valid"])


@pytest.mark.parametrize("folder", ALL)
def test_detection_and_fields_without_verification(folder: Path) -> None:
    blob, _, _ = load(folder)
    expected_tee = Tee.SNP if folder.parent.name == "snp" else Tee.TDX
    assert detect(blob) is expected_tee
    if expected := vectors.meta(folder).get("expected"):
        tee, version, fields = parse_fields(blob)
        assert (tee, version) == (expected_tee, expected.get("version") or expected["header"]["version"])
        # The rest needs the leaf certificate: the TCB's layout in version 2, the platform of a quote.
        assert all(fields[key] == value for key, value in expected.items() if key in fields and "tcb" not in key)


def test_what_is_neither(tmp_path: Path) -> None:
    for blob in (b"", b"\x02\0\0\0"):
        with pytest.raises(Truncated):
            detect(blob)
    sgx = (3).to_bytes(2, "little") + (2).to_bytes(2, "little") + bytes(44)
    for blob in (sgx, b"\x7fELF\1\1\1\0", b'{"type":"tee-agent/bundle/v1"}', b"-----BEGIN CERTIFICATE-----"):
        with pytest.raises(FormatError, match="neither"):
            detect(blob)


def test_an_svn_cant_make_a_report_a_quote() -> None:
    """Bytes 4 to 8 of a report are GUEST_SVN, which its owner chooses."""
    assert detect(b"\x05\0\0\0\x81\0\0\0" + bytes(1176)) is Tee.SNP


def test_versions_that_nobody_knows_have_their_own_error() -> None:
    for kind, name in (("snp", "turin-v5-vcek"), ("tdx", "v5-uptodate")):
        blob, endorsements, at = load(vector(kind, name))
        with pytest.raises(FormatError) as caught:
            verify_evidence(b"\x7f" + blob[1:], endorsements, at=at)
        assert caught.value.code == "format.version"
        with pytest.raises(Truncated):
            verify_evidence(blob[:-1], endorsements, at=at)
        with pytest.raises(FormatError) as caught:
            verify_evidence(blob + b"garbage", endorsements, at=at)
        assert caught.value.code == "format.oversized"


def test_an_added_root_is_marked_and_only_by_its_key() -> None:
    folder = vector("snp", "neg-fake-root")
    blob, endorsements, at = load(folder)
    with pytest.raises(UntrustedRoot):
        verify_evidence(blob, endorsements, at=at)
    added = anchor_from_pem((folder / "ark.pem").read_bytes(), "lab")
    verified = verify_evidence(blob, endorsements, at=at, anchors=(*genuine_anchors(), added))
    assert verified.added_root
    assert verified.root.name == "lab"


def test_a_vendors_root_that_is_added_stays_the_vendors() -> None:
    folder = vector("snp", "turin-v5-vcek")
    blob, endorsements, at = load(folder)
    again = anchor_from_pem((folder / "ark.pem").read_bytes(), "again")
    assert not verify_evidence(blob, endorsements, at=at, anchors=(*genuine_anchors(), again)).added_root
    assert verify_evidence(blob, endorsements, at=at, anchors=(again,)).added_root


def test_no_anchor_means_nobody() -> None:
    blob, endorsements, at = load(vector("tdx", "v5-uptodate"))
    with pytest.raises(UntrustedRoot):
        verify_evidence(blob, endorsements, at=at, anchors=())


@pytest.mark.parametrize("pem", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_root(pem: bytes) -> None:
    with pytest.raises(FormatError):
        anchor_from_pem(pem, "root.pem")


def test_a_root_file_holds_one_root() -> None:
    folder = vector("snp", "turin-v5-vcek")
    both = (folder / "ark.pem").read_bytes() + (folder / "ask.pem").read_bytes()
    with pytest.raises(FormatError, match="2 are there"):
        anchor_from_pem(both, "both.pem")


def test_policy_and_its_numbering() -> None:
    blob, endorsements, at = load(vector("snp", "turin-v5-vcek"))
    measurement = bytes.fromhex(parse_fields(blob)[2]["measurement"])
    verified = verify_evidence(blob, endorsements, at=at, policy=Policy.pinning(Tee.SNP, {"measurement": measurement}))
    assert [check.number for check in verified.checks] == list(range(1, len(verified.checks) + 1))
    assert "policy: not applied" not in verified.not_checked
    with pytest.raises(PolicyViolation) as caught:
        verify_evidence(blob, endorsements, at=at, policy=Policy.pinning(Tee.SNP, {"measurement": bytes(48)}))
    assert caught.value.code == "verify.policy"
    assert caught.value.checks[-1].name == "policy: measurement exact_match"


def test_without_policy_it_says_so() -> None:
    blob, endorsements, at = load(vector("tdx", "v5-outofdate-eval21"))
    verified = verify_evidence(blob, endorsements, at=at)
    assert "policy: not applied" in verified.not_checked
    assert "TCB status OutOfDate: no policy's tcb rule judged it" in verified.not_checked


@pytest.mark.parametrize(
    ("name", "part", "status"),
    [
        ("v5-uptodate", "platform_tcb", "UpToDate"),
        ("v5-outofdate-eval21", "platform_tcb", "OutOfDate"),
        ("v5-relaunch-advised", "tdx_module_tcb", "OutOfDate"),
        ("v4-uptodate-2025", "qe_tcb", "UpToDate"),
    ],
)
def test_a_policy_sees_the_worse_status_of_each_part(name: str, part: str, status: str) -> None:
    blob, endorsements, at = load(vector("tdx", name))
    verified = verify_evidence(blob, endorsements, at=at)
    assert appraised_fields(verified)["tcb"][part] == status
    registers = {key: {"exact_match": verified.fields[key]} for key in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}
    rules: dict[str, Any] = {**registers, "tcb": {part: "UpToDate"}}
    metadata = {"policy_type": "TDX", "policy_id": "p", "key_id": "k"}
    policy = Policy.parse({"metadata": metadata, "validation_rules": rules})
    if status == "UpToDate":
        verify_evidence(blob, endorsements, at=at, policy=policy)
        return
    with pytest.raises(PolicyViolation, match=part):
        verify_evidence(blob, endorsements, at=at, policy=policy)


def test_without_collateral_no_tcb_rule_holds() -> None:
    blob, _, at = load(vector("tdx", "v5-uptodate"))
    verified = verify_evidence(blob, Endorsements(), at=at)
    assert set(appraised_fields(verified)["tcb"].values()) == {"n/a"}


def test_padding_goes_before_a_bundle_is_made() -> None:
    folder = vector("tdx", "v4-uptodate-2026-01")
    blob = (folder / "quote.bin").read_bytes()
    assert len(blob) == 8000
    assert blob.startswith(unpadded(blob))
    assert len(unpadded(blob)) == vectors.meta(folder)["expected"]["quote_len"]
    report = (vector("snp", "turin-v5-vcek") / "report.bin").read_bytes()
    assert unpadded(report) == report


def test_the_hosts_certificate_table_will_do() -> None:
    folder = vector("snp", "genoa-v3-certtable")
    blob, _, at = load(folder)
    verified = verify_evidence(blob, from_auxblob((folder / "auxblob.bin").read_bytes()), at=at)
    assert verified.revocation == "not checked"
    with pytest.raises(FormatError):
        from_auxblob(b"x" * 100)


def test_time_is_what_the_caller_says() -> None:
    blob, endorsements, _ = load(vector("snp", "turin-v5-vcek"))
    for year in (2020, 2060):
        with pytest.raises(TeeAgentError) as caught:
            verify_evidence(blob, endorsements, at=datetime(year, 1, 1, tzinfo=UTC))
        assert caught.value.code.startswith("verify.validity")


def test_junk_among_the_certificates_changes_nothing() -> None:
    blob, endorsements, at = load(vector("snp", "turin-v5-vcek"))
    with_junk = Endorsements((b"junk", *endorsements.certificates), endorsements.crls)
    assert signature_valid(blob, with_junk, at) is True
    assert signature_valid(blob, Endorsements((b"junk",)), at) is None
