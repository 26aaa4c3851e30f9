"""`tee-agent verify` from its command line: what it demands, what it prints, how it exits."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.core.bundle import decode
from agent.core.model import Endorsements, Tee
from agent.verify.evidence import parse_fields
from sim.export import export
from tests.support.bundles import NONCE, PAYLOAD, Signer
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]


@dataclass(frozen=True)
class Files:
    """A bundle on disk, its payload, its root, and the words that name its workload."""

    signer: Signer
    bundle: Path
    payload: Path
    root: Path
    workload: tuple[str, ...]

    def words(self, *more: str) -> tuple[str, ...]:
        return ("verify", str(self.bundle), "--trust-root", str(self.root), *more)


@pytest.fixture(scope="module", params=["snp", "tdx"])
def files(request: pytest.FixtureRequest, pki_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("bundle")
    signer = Signer.on(machine(request.param, pki_state))
    export(signer.machine, folder / "endorsements")
    made = signer.fresh_bundle()
    (folder / "release.bundle").write_bytes(made.encode())
    (folder / "payload").write_bytes(PAYLOAD)
    fields = parse_fields(made.attachments.blob)[2]
    if signer.tee is Tee.SNP:
        words: tuple[str, ...] = ("--measurement", fields["measurement"])
    else:
        rtmrs = [word for index in range(3) for word in ("--rtmr", f"{index}={fields[f'rtmr{index}']}")]
        words = ("--mrtd", "0x" + fields["mr_td"].upper(), *rtmrs)
    return Files(signer, folder / "release.bundle", folder / "payload", folder / "endorsements" / "root.pem", words)


def run(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> tuple[int, str, str]:
    status = main(words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def run_json(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> tuple[int, dict[str, Any]]:
    status, out, err = run(capsys, (*words, "--json"))
    assert err == ""
    loaded: dict[str, Any] = json.loads(out)
    return status, loaded


def test_a_good_bundle(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, files.words("--payload", str(files.payload), *files.workload))
    assert (status, err) == (0, "")
    assert "ADDED ROOT" in out
    assert "\nrevocation: as of " in out
    assert "  - nonce: not compared" in out
    assert "\n  kept (memory) in memory, of this boot only\n" in out
    assert "  - storage: not compared" in out
    assert "payload: not compared" not in out
    assert out.endswith("bundle: valid, under an ADDED ROOT\n")


def test_everything_asked_for(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    key = files.signer.attachments(b"-").key_sha256.hex()
    asked = ("--nonce", NONCE.hex(), "--audience", "relying.example", "--context", "release", "--key", f"sha256:{key}")
    kept = ("--storage", "snp-derived", "--storage", "memory")
    status, found = run_json(capsys, files.words("--payload", str(files.payload), *files.workload, *asked, *kept))
    assert (status, found["valid"]) == (0, True)
    assert found["key"]["sha256"] == key
    assert found["fresh"]["nonce"] == NONCE.hex()
    left = [what for what in found["not_checked"] if not what.startswith("policy: says nothing of ")]
    assert left == ["times in the statement: the guest's own claim"]


def test_without_payload_it_says_so(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, files.words("--any-workload"))
    assert status == 0
    assert "  - payload: not compared" in out
    assert "  - workload: any was accepted" in out


@pytest.mark.parametrize("more", [(), ("--any-workload", "--measurement", "ab" * 48)])
def test_the_workload_is_demanded(files: Files, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, files.words(*more))
    assert (status, out) == (64, "")
    assert "--any-workload" in err


def test_other_workloads_are_refused(files: Files, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    others = [word[:-4] + "0000" if len(word) > 90 else word for word in files.workload]
    status, out, err = run(capsys, files.words(*others))
    assert status == 65
    assert out.startswith("bundle: REFUSED\n")
    assert "[verify.policy]" in err
    policy = tmp_path / "policy.json"
    names = ("measurement",) if files.signer.tee is Tee.SNP else ("mr_td", "rtmr0", "rtmr1", "rtmr2")
    metadata = {"policy_type": "SNP" if files.signer.tee is Tee.SNP else "TDX", "policy_id": "p", "key_id": "k"}
    rules = {name: {"allow_list": ["5a" * 48]} for name in names}
    policy.write_text(json.dumps({"metadata": metadata, "validation_rules": rules}))
    assert run(capsys, files.words("--policy", str(policy)))[0] == 65


def test_without_the_root_it_is_nobodys(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = run_json(capsys, ("verify", str(files.bundle), "--any-workload"))
    assert (status, found["valid"]) == (65, False)
    assert found["error"]["code"] == "verify.untrusted-root"
    assert found["checks"][-1]["ok"] is False


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--nonce", "00" * 16), "verify.binding"),
        (("--audience", "other"), "verify.binding"),
        (("--context", "other"), "verify.binding"),
        (("--key", "00" * 32), "verify.binding"),
        (("--storage", "tas"), "verify.binding"),
        (("--at", "2020-01-01T00:00:00Z"), "verify.validity"),
        (("--payload", "/etc/hostname"), "verify.binding"),
    ],
)
def test_what_differs_is_refused(
    files: Files, words: tuple[str, ...], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = run_json(capsys, files.words("--any-workload", *words))
    assert (status, found["error"]["code"]) == (65, code)


def test_the_floor_is_lifted_by_name(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = run_json(capsys, files.words("--any-workload", "--allow", "debug"))
    assert status == 0
    assert "floor: debug (lifted by name)" in found["not_checked"]
    assert "floor: debug" not in [check["name"] for check in found["checks"]]


@pytest.mark.parametrize(("skew", "good"), [((), True), (("--skew", "59"), False)])
def test_the_skew_is_the_verifiers(
    files: Files, skew: tuple[str, ...], good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = decode(files.bundle.read_bytes()).attachments.statement.expires
    at = (ends + timedelta(seconds=60)).isoformat()
    _, found = run_json(capsys, files.words("--any-workload", "--at", at, *skew))
    (said,) = [check["ok"] for check in found["checks"] if check["name"] == "statement in force"]
    assert said is good


def test_own_collateral_supplements_the_bundles(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = files.signer.bundle(files.signer.attachments(endorsements=Endorsements()))
    (tmp_path / "bare").write_bytes(bare.encode())
    words = ("verify", str(tmp_path / "bare"), "--trust-root", str(files.root), "--any-workload")
    status, found = run_json(capsys, (*words, "--collateral", str(files.root.parent)))
    assert (status, found["evidence"]["revocation"][:6]) == (0, "as of ")


@pytest.mark.parametrize(
    "words",
    [
        ("--measurement", "ab"),
        ("--mrtd", "ab" * 48),
        ("--rtmr", "0=" + "ab" * 48),
        ("--rtmr", "9=" + "ab" * 48),
        ("--rtmr", "0"),
        ("--any-workload", "--nonce", "00"),
        ("--any-workload", "--key", "xx"),
        ("--any-workload", "--context", "x" * 257),
        ("--any-workload", "--skew", "-1"),
        ("--any-workload", "--audience", "\udcff"),
        ("--any-workload", "--payload", "/nonexistent"),
        ("--any-workload", "--trust-root", "/nonexistent"),
    ],
)
def test_usage_errors(files: Files, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, files.words(*words))
    assert (status, out) == (64, "")
    assert err.startswith("tee-agent: ")


def test_what_is_no_bundle(tmp_path: Path, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "x"
    for content, code in ((b"", "format.json"), (b"{}", "format.version"), (bytes(1 << 21), "format.oversized")):
        other.write_bytes(content)
        status, _, err = run(capsys, ("verify", str(other), "--any-workload"))
        assert status == 65
        assert f"[{code}]" in err


def test_bundle_from_standard_input(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(files.bundle.read_bytes())))
    words = ("--any-workload", "--trust-root", str(files.root), "--quiet")
    assert run(capsys, ("verify", "-", *words)) == (0, "", "")
    assert run(capsys, ("verify", "-", "--payload", "-", *words))[0] == 64
