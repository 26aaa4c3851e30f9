"""The documents name every field of the evidence and every member of a bundle."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core.model import Tee
from agent.core.policy import FLOOR_NAMES
from agent.core.rules import RULES
from agent.core.tcbrule import TCB_ORDER, TCB_PARTS
from agent.verify.bundle import verify_bundle
from agent.verify.signed import Judge
from agent.verify.workload import Workload
from sim.psp import GuestOptions
from tests.support.bundles import Signer
from tests.support.simulator import anchor, machine, pki_state

__all__ = ["pki_state"]
DOCS = Path(__file__).resolve().parents[3] / "docs"
AT = datetime.now(UTC)


def names(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from names(inner)


def missing(page: str, wanted: set[str]) -> set[str]:
    words = set(re.findall(r"[A-Za-z0-9_-]+", (DOCS / page).read_text()))
    return wanted - words


def judge(signer: Signer) -> Judge:
    return Judge(AT, Workload(any_workload=True), (anchor(signer.machine.root),))


@pytest.mark.parametrize("tee", ["snp", "tdx"])
def test_every_field_of_the_evidence(tee: str, pki_state: Path) -> None:
    signer = Signer.on(machine(tee, pki_state, GuestOptions(version=5) if tee == "snp" else None), AT)
    verdict = verify_bundle(signer.bundle().encode(), judge(signer))
    assert verdict.verified.tee is (Tee.SNP if tee == "snp" else Tee.TDX)
    assert missing("evidence.md", set(names(verdict.verified.fields))) == set()


def test_every_member_of_a_bundle(pki_state: Path) -> None:
    signer = Signer.on(machine("snp", pki_state), AT)
    document = json.loads(signer.fresh_bundle().encode())
    document["fresh"] |= {"caller": {}, "claims_unverified": {}}
    assert missing("bundle.md", set(names(document))) == set()
    verdict = verify_bundle(signer.fresh_bundle().encode(), judge(signer))
    said = verdict.to_json()
    said["evidence"]["fields"] = {}
    said["fresh"] |= {"caller": {}, "claims_unverified": {}}
    assert missing("bundle.md", set(names(said))) == set()


def test_every_rule_and_word_of_a_policy() -> None:
    assert missing("policy.md", {*RULES, *TCB_ORDER, *TCB_PARTS, *FLOOR_NAMES}) == set()
