"""The floor holds beside every policy, fails closed, and is lifted by name only."""

from __future__ import annotations

import pytest

from agent.core.errors import UsageError
from agent.core.model import Check, Tee
from agent.core.policy import Floor, evaluate_floor
from tests.support.policies import SNP, TDX


def failing(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.ok]


def test_the_floor_of_snp() -> None:
    assert failing(evaluate_floor(Floor(), Tee.SNP, SNP)) == []
    debug = {**SNP, "policy": "0x00000000000b0000"}
    assert failing(evaluate_floor(Floor(), Tee.SNP, debug)) == ["floor: debug"]
    assert failing(evaluate_floor(Floor(vmpl=2), Tee.SNP, SNP)) == ["floor: vmpl"]
    assert evaluate_floor(Floor(vmpl=2), Tee.SNP, SNP)[-1].detail == "VMPL 0, 2 is expected"
    assert failing(evaluate_floor(Floor(vmpl=2), Tee.SNP, {**SNP, "vmpl": 2})) == []
    assert failing(evaluate_floor(Floor(), Tee.SNP, {})) == ["floor: debug", "floor: vmpl"]


def test_the_floor_of_tdx() -> None:
    assert failing(evaluate_floor(Floor(), Tee.TDX, TDX)) == []
    for attributes, failures in [
        ("0100001000000000", ["floor: debug"]),
        ("8000001000000000", ["floor: debug"]),
        ("0000000000000000", ["floor: sept-ve"]),
        ("0000004000000000", ["floor: sept-ve"]),
        ("01000000", ["floor: debug", "floor: sept-ve"]),
    ]:
        assert failing(evaluate_floor(Floor(), Tee.TDX, {**TDX, "td_attributes": attributes})) == failures
    assert failing(evaluate_floor(Floor(), Tee.TDX, {})) == ["floor: debug", "floor: sept-ve"]


def test_the_floor_is_lifted_by_name_only() -> None:
    debug = {**SNP, "policy": "0x00000000000b0000", "vmpl": 1}
    floor = Floor(allow=frozenset({"debug"}))
    assert failing(evaluate_floor(floor, Tee.SNP, debug)) == ["floor: vmpl"]
    assert floor.lifted() == ("floor: debug (lifted by name)",)
    with pytest.raises(UsageError, match="nothing on the floor"):
        Floor(allow=frozenset({"everything"}))
