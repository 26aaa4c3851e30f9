"""`tee-agent evidence` over every genuine vector: verdict, fields and exit status as its meta.json says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.core.policy import FLOOR_NAMES
from tests.support import vectors

ROOT = Path(__file__).resolve().parents[2]
ALL = [*vectors.cases("snp"), *vectors.cases("tdx")]
NOT_GENUINE = {"neg-fake-root", "v4-preproduction-root"}
NO_LEVEL = {"v4-spr-2023-no-tcb-level", "v5-no-tcb-level"}
CODES = {
    "neg-fake-root": "verify.untrusted-root",
    "v4-preproduction-root": "verify.untrusted-root",
    "neg-measurement-bitflip": "verify.signature",
    "neg-signature-bitflip": "verify.signature",
    "neg-trailing-garbage": "format.oversized",
    "neg-truncated": "format.truncated",
    "neg-unknown-version": "format.version",
    "neg-signature-len-overflow": "format.truncated",
    "neg-pck-chain-swapped": "verify.chain",
    "v4-spr-2023-no-tcb-level": "verify.tcb.no-level",
    "v5-no-tcb-level": "verify.tcb.no-level",
    "genoa-v2-unverifiable": "verify.chain",
    "milan-v4-unverifiable": "verify.chain",
}
BELOW_THE_FLOOR = {"milan-v2-debug-policy", "milan-v3-vlek-aws", "v4-debug-td", "v4-azure-outofdate"}


def blob(folder: Path) -> Path:
    return folder / ("report.bin" if folder.parent.name == "snp" else "quote.bin")


def arguments(folder: Path, *more: str) -> list[str]:
    at = vectors.meta(folder)["verify_at"] or "2025-09-01T00:00:00Z"
    return ["evidence", "verify", str(blob(folder)), "--certs", str(folder), "--at", at, *more]


def vector(kind: str, name: str) -> Path:
    path = vectors.ROOT / kind / name
    if not path.is_dir():
        pytest.skip(f"no vectors at {vectors.ROOT}: set TEE_AGENT_VECTORS")
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    status, out, err = run(capsys, *words, "--json")
    assert err == ""
    loaded: dict[str, Any] = json.loads(out)
    return status, loaded


@pytest.mark.parametrize("folder", ALL)
def test_verdict_as_the_vector_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta, name = vectors.meta(folder), folder.name
    status, found = run_json(capsys, *arguments(folder, "--allow", ",".join(FLOOR_NAMES)))
    good = name not in CODES
    assert (status, found["valid"]) == ((0, True) if good else (65, False))
    assert (found["error"] or {}).get("code", "") == CODES.get(name, "")
    assert found["tcb_status"] == meta["tcb_status"]
    if not found["error"] or not found["error"]["code"].startswith("format"):
        assert found["signature_valid"] == (None if name == "neg-pck-chain-swapped" else meta["signature_valid"])
        assert found["tee"] == {"snp": "amd-sev-snp", "tdx": "intel-tdx"}[folder.parent.name]
    if expected := meta.get("expected"):
        wanted = {key: value for key, value in expected.items() if good or key in found["fields"]}
        wanted = {key: value for key, value in wanted.items() if good or not key.endswith("_tcb")}
        assert {key: found["fields"][key] for key in wanted} == wanted
    assert [check["ok"] for check in found["checks"]][:-1] == [True] * (max(1, len(found["checks"])) - 1)


@pytest.mark.parametrize("folder", [case for case in ALL if case.id in BELOW_THE_FLOOR])
def test_the_floor_is_on_by_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = run_json(capsys, *arguments(folder))
    assert status == 65
    assert (found["valid"], found["signature_valid"]) == (False, True)
    assert found["error"]["code"] == "verify.policy.floor"
    assert found["fields"]["report_data"] == vectors.meta(folder)["expected"]["report_data"]
    item = found["checks"][-1]["name"].removeprefix("floor: ")
    assert run(capsys, *arguments(folder, "--allow", item))[0] == 0


def test_text_says_what_was_not_applied(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *arguments(vector("snp", "turin-v5-vcek")))
    assert (status, err) == (0, "")
    assert "policy: not applied" in out
    assert "\nrevocation: as of 2026-08-19T14:22:45Z\n" in out
    assert out.endswith("evidence: valid\n")


def test_text_of_a_refusal_shows_how_far_it_got(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *arguments(vector("snp", "neg-measurement-bitflip")))
    assert status == 65
    assert out.startswith("evidence: REFUSED\nchecked:\n    1. ok")
    assert "FAIL report signature" in out.splitlines()[-1]
    assert err == "tee-agent: report signature does not verify\n  [verify.signature]\n"


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *arguments(vector("snp", "turin-v5-vcek"), "--quiet")) == (0, "", "")


def test_an_added_root_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    folder = vector("snp", "neg-fake-root")
    status, out, _ = run(capsys, *arguments(folder, "--trust-root", str(folder / "ark.pem")))
    assert status == 0
    assert "ADDED ROOT" in out
    assert out.endswith("evidence: valid, under an ADDED ROOT\n")
    _, found = run_json(capsys, *arguments(folder, "--trust-root", str(folder / "ark.pem")))
    assert found["root"]["added"] is True


def test_a_policy_decides(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = vector("tdx", "v5-outofdate-eval21")
    fields = vectors.meta(folder)["expected"]
    rules: dict[str, Any] = {name: {"exact_match": fields[name]} for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}
    policy = tmp_path / "policy.json"
    for tcb, status in (("OutOfDate", 0), ("UpToDate", 65)):
        made = {"platform_tcb": tcb, "qe_tcb": "OutOfDate"}
        metadata = {"policy_type": "TDX", "policy_id": "p", "key_id": "k"}
        policy.write_text(json.dumps({"metadata": metadata, "validation_rules": {**rules, "tcb": made}}))
        assert run_json(capsys, *arguments(folder, "--policy", str(policy)))[0] == status
    policy.write_text("{}")
    status, found = run_json(capsys, *arguments(folder, "--policy", str(policy)))
    assert (status, found["error"]["code"]) == (65, "format.policy")


def test_the_hosts_certificate_table(capsys: pytest.CaptureFixture[str]) -> None:
    folder = vector("snp", "genoa-v3-certtable")
    words = ("--auxblob", str(folder / "auxblob.bin"), "--at", vectors.meta(folder)["verify_at"])
    status, out, _ = run(capsys, "evidence", "verify", str(blob(folder)), *words)
    assert status == 0
    assert "\nrevocation: not checked\n" in out


def test_show_believes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    folder = vector("snp", "neg-measurement-bitflip")
    status, out, _ = run(capsys, "evidence", "show", str(blob(folder)))
    assert status == 0
    assert "NOT VERIFIED" in out.splitlines()[0]
    assert run(capsys, "evidence", "show", str(blob(folder)), "--quiet") == (0, "", "")
    assert run_json(capsys, "evidence", "show", str(blob(folder)))[1]["verified"] is False


@pytest.mark.parametrize(
    "words",
    [
        ["--at", "yesterday"],
        ["--at", "2026-01-01T00:00:00"],
        ["--allow", "everything"],
        ["--certs", "/nonexistent"],
        ["--policy", "/nonexistent"],
        ["--trust-root", "/nonexistent"],
        ["--vmpl", "x"],
        ["--unknown"],
    ],
)
def test_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = vector("snp", "turin-v5-vcek")
    status, out, err = run(capsys, "evidence", "verify", str(blob(folder)), *words)
    assert (status, out) == (64, "")
    assert err


def test_standard_input_in_a_real_process() -> None:
    folder = vector("snp", "turin-v5-vcek")
    words = ["--certs", str(folder), "--at", "2026-09-15T00:00:00Z"]
    command = [sys.executable, "-m", "agent.cli", "evidence", "verify", "-", *words]
    with blob(folder).open("rb") as report:
        done = subprocess.run(command, cwd=ROOT, stdin=report, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"evidence: valid\n")
