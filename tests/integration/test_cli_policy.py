"""`tee-agent evidence verify --policy`, over genuine evidence: sets, the tcb rule, signatures, and what is left open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.cli import main
from agent.verify.policysign import signed
from tests.support import vectors
from tests.support.policies import REGISTERS
from tests.support.policies import document as _document


class Case:
    """One vector, a policy over its own values, and the command line."""

    def __init__(self, kind: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.vector = vectors.ROOT / kind / name
        if not self.vector.is_dir():
            pytest.skip(f"no vectors at {vectors.ROOT}: set TEE_AGENT_VECTORS")
        self.meta = vectors.meta(self.vector)
        self.fields: dict[str, Any] = self.meta["expected"]
        self.kind, self.folder, self.capsys = kind, folder, capsys

    def policy(self, rules: dict[str, Any]) -> dict[str, Any]:
        policy_type = "SEV" if self.kind == "snp" else "TDX"
        return {**_document(policy_type), "validation_rules": rules}

    def verify(self, document: dict[str, Any], *more: str, status: int = 0) -> Any:
        path = self.folder / "policy.json"
        path.write_text(json.dumps(document))
        blob = self.vector / ("report.bin" if self.kind == "snp" else "quote.bin")
        words = ["evidence", "verify", str(blob), "--certs", str(self.vector), "--at", self.meta["verify_at"]]
        assert main([*words, "--policy", str(path), "--json", *more]) == status
        return json.loads(self.capsys.readouterr().out)


@pytest.fixture
def snp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Case:
    return Case("snp", "genoa-v5-vcek", tmp_path, capsys)


@pytest.fixture
def tdx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Case:
    return Case("tdx", "v5-uptodate", tmp_path, capsys)


def own(case: Case) -> dict[str, Any]:
    names = ("measurement",) if case.kind == "snp" else REGISTERS
    return {name: {"exact_match": case.fields[name]} for name in names}


def test_what_a_policy_leaves_open_is_listed(snp: Case) -> None:
    found = snp.verify(snp.policy(own(snp)))
    assert found["valid"]
    assert {"policy: signature", "policy: says nothing of reported_tcb"} <= set(found["not_checked"])
    tcb = {name: {"min_value": value} for name, value in snp.fields["reported_tcb"].items() if name != "raw"}
    assert (
        "policy: says nothing of reported_tcb"
        not in snp.verify(snp.policy({**own(snp), "reported_tcb": tcb}))["not_checked"]
    )


def test_a_rule_that_fails_is_the_last_check(snp: Case) -> None:
    hidden = {**own(snp), "platform_info": {"ciphertext_hiding_enabled": True}}
    found = snp.verify(snp.policy(hidden), status=65)
    assert (found["valid"], found["error"]["code"]) == (False, "verify.policy")
    assert found["checks"][-1]["name"] == "policy: platform_info.ciphertext_hiding_enabled boolean"


def test_sets_of_whole_machines(tdx: Case) -> None:
    other = {name: {"exact_match": "77" * 48} for name in REGISTERS}
    found = tdx.verify(tdx.policy({"any_of": [other, {"body": own(tdx)}]}))
    assert [check["detail"] for check in found["checks"] if check["name"] == "policy: any_of"] == ["alternative 2 of 2"]
    mixed = {**own(tdx), "rtmr1": {"exact_match": "77" * 48}}
    assert tdx.verify(tdx.policy({"any_of": [other, mixed]}), status=65)["error"]["code"] == "verify.policy"
    half = {name: rule for name, rule in own(tdx).items() if name != "rtmr0"}
    refused = tdx.verify(tdx.policy({"any_of": [own(tdx), half]}), status=65)
    assert refused["error"]["code"] == "format.policy"


def test_the_tcb_rule(tdx: Case) -> None:
    number = min(
        tdx.meta["tcb_status_detail"][name]
        for name in ("tcb_evaluation_data_number", "qe_identity_evaluation_data_number")
    )
    good = {"allowed_statuses": ["UpToDate"], "min_evaluation_data_number": number, "allowed_advisories": []}
    found = tdx.verify(tdx.policy({**own(tdx), "tcb": good}))
    assert not [what for what in found["not_checked"] if "tcb" in what.lower()]
    newer = {"min_evaluation_data_number": number + 1}
    refused = tdx.verify(tdx.policy({**own(tdx), "tcb": newer}), status=65)
    assert refused["checks"][-1]["name"] == "policy: tcb.min_evaluation_data_number"


def test_who_signed_the_policy(snp: Case, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(public)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made = signed(snp.policy(own(snp)), key.private_bytes(*form))
    trust = ("--policy-trust", str(tmp_path / "key.pub"))
    assert "policy: signature" in snp.verify(made)["not_checked"]
    assert "policy: signature" not in snp.verify(made, *trust)["not_checked"]
    for wrong in (snp.policy(own(snp)), {**made, "metadata": {**made["metadata"], "note": "x"}}):
        assert snp.verify(wrong, *trust, status=65)["error"]["code"] == "verify.policy.signature"


def test_trust_without_a_policy_is_a_mistake(snp: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evidence", "verify", str(snp.vector / "report.bin"), "--certs", str(snp.vector)]
    assert main([*words, "--policy-trust", str(tmp_path)]) == 64
    assert "there is no --policy" in capsys.readouterr().err
