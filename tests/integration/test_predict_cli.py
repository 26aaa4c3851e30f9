"""`policy predict | tighten` and `status` at their edges: quotes from files, other kinds of TEE, JSON, no evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.admin import measured, predict
from agent.admin.bootfiles import Files
from agent.admin.evidence import live
from agent.boot import report
from agent.core.config import Config, EvidenceConfig
from agent.core.daemonconfig import DaemonConfig
from agent.core.errors import UsageError
from agent.core.model import Tee
from agent.core.policy import Policy
from agent.deadline import Deadline
from tests.integration.test_predict import FILES, KERNEL, LINE, Guest, snp_guest, tdx_guest
from tests.unit.tdx import images

pytestmark = [pytest.mark.fuse, pytest.mark.root]
Capsys = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def tdx(pki_state: Path) -> Iterator[Guest]:
    with tdx_guest(pki_state) as found:
        yield found


def test_another_machine_s_boot_is_predicted_from_its_quote_and_log(tdx: Guest, tmp_path: Path, capsys: Capsys) -> None:
    assert tdx.tool("evidence", "collect", "--nonce", "00" * 16, "--out", str(tmp_path / "quote")) == 0
    for name, data in {"old": KERNEL, "initrd": FILES["initrd.img"], "new": images.kernel("new")}.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "line").write_text(LINE)
    words = ["--quote", str(tmp_path / "quote"), "--eventlog", str(tdx.folder / "log.json")]
    words += ["--running-kernel", str(tmp_path / "old"), "--running-initrd", str(tmp_path / "initrd")]
    words += ["--running-cmdline-file", str(tmp_path / "line")]
    words += ["--kernel", str(tmp_path / "new"), "--initrd", str(tmp_path / "initrd"), "--json"]
    capsys.readouterr()
    from_elsewhere = Guest(tmp_path, tdx.simulator, "")
    (tmp_path / "agent.toml").write_text("")
    assert from_elsewhere.tool("policy", "predict", *words) == 0
    told = json.loads(capsys.readouterr().out)
    _, fields = live(tdx.config, Deadline(60, "test"))
    assert [told["workload"][name] == fields[name] for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")] == [
        *(True, True, False, True)
    ]
    assert told["policy"] is None


def test_a_policy_of_another_kind_is_left_alone(tdx: Guest, tmp_path: Path, capsys: Capsys) -> None:
    policy = tmp_path / "snp.json"
    document = Policy.pinning(Tee.SNP, {"measurement": bytes(48)}).document
    policy.write_text(json.dumps(document))
    before = policy.read_text()
    for words in (["predict", "--policy", str(policy)], ["tighten", str(policy)]):
        assert tdx.tool("policy", *words) == 64
        assert "[usage.policy]" in capsys.readouterr().err
    assert policy.read_text() == before


def test_tighten_tells_in_json_and_of_a_typed_passphrase(
    tdx: Guest, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, out = tmp_path / "policy.json", tmp_path / "out.json"
    assert tdx.tool("policy", "draft", "--key-id", "disk", "-o", str(policy), "--json") == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(policy)
    monkeypatch.setattr(report, "read", lambda: {"volumes": [{"name": "vault", "how": "passphrase"}]})
    assert tdx.tool("policy", "tighten", str(policy), "-o", str(out), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["changed"], told["file"]) == (False, str(out))
    assert "vault was opened by a typed passphrase" in told["notes"][0]
    assert Policy.from_bytes(out.read_bytes()).document == Policy.from_bytes(policy.read_bytes()).document
    other = Policy.pinning(Tee.TDX, {name: bytes(48) for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")})
    policy.write_text(json.dumps(other.document))
    assert tdx.tool("policy", "tighten", str(policy)) == 65
    assert "does not accept" in capsys.readouterr().err


def test_predict_says_what_comes_next(pki_state: Path, tmp_path: Path, capsys: Capsys) -> None:
    with snp_guest(pki_state, tmp_path) as booted:
        policy = tmp_path / "policy.json"
        assert booted.tool("policy", "draft", "--key-id", "disk", "-o", str(policy), "--quiet") == 0
        booted.write("initrd.img", b"made anew")
        words = ["--ovmf", str(booted.folder / "OVMF.fd"), "--policy", str(policy)]
        assert booted.tool("policy", "predict", *words) == 0
        assert f"tas policy put --replace {policy.name}" in capsys.readouterr().err
        # The firmware can't be told to measure what it can't read.
        (booted.folder / "vmlinuz").unlink()
        assert booted.state()[0] == "unknown"
        assert booted.tool("policy", "draft", "--key-id", "disk") == 0
        assert "can't be predicted" in capsys.readouterr().err


def test_without_evidence_nothing_is_known(tmp_path: Path) -> None:
    evidence = EvidenceConfig(tsm_root=tmp_path / "none", interface="configfs-tsm")
    config = Config("f", evidence=evidence, daemon=DaemonConfig(runtime_dir=tmp_path))
    for found in (measured.looked(config).measured, measured.seen(config, Deadline(5, "test"))):
        assert (found.state, "no evidence" in found.reason) == ("unknown", True)


def test_too_large_a_file_is_not_hashed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(predict, "MAX_IMAGE", 100)
    how = predict.launch(replace(Config("f").measured, vcpus=1, vcpu_type="EPYC"))
    with pytest.raises(UsageError, match="more than 100 bytes"):
        predict.measurement(tmp_path / "OVMF.fd", how, Files(tmp_path / "vmlinuz", None, ""))


def test_a_unified_image_may_be_booted_directly(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(images.pe({".linux": KERNEL}))
    assert predict.parts(Files(tmp_path / "vmlinuz", None, "ro")).what == "unified"
