"""The published bundles verify, and each step gives the published bytes."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from agent.core import bundle
from agent.core.errors import UntrustedRoot
from agent.verify.bundle import verify_bundle
from agent.verify.evidence import anchor_from_pem
from agent.verify.signed import Judge
from agent.verify.workload import Workload
from tests.support.bundle_vectors import FOLDER, NAMES, steps


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


def test_all_are_here() -> None:
    assert {path.stem for path in FOLDER.glob("bundle-*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_verifies(name: str) -> None:
    vector = load(name)
    data, payload = vector["bundle"].encode(), vector["payload"].encode()
    at = datetime.fromisoformat(vector["verify_at"])
    root = anchor_from_pem(vector["root_pem"].encode(), name)
    verdict = verify_bundle(data, Judge(at, Workload(any_workload=True), (root,)), payload=payload)
    assert verdict.verified.added_root
    assert (verdict.bundle.fresh is not None) is NAMES[name]
    with pytest.raises(UntrustedRoot):
        verify_bundle(data, Judge(at, Workload(any_workload=True)), payload=payload)


@pytest.mark.parametrize("name", NAMES)
def test_each_step(name: str) -> None:
    vector = load(name)
    decoded = bundle.decode(vector["bundle"].encode())
    assert decoded.encode() == vector["bundle"].encode()
    assert steps(decoded) == vector["steps"]
