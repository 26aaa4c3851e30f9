"""How parts become one word: levels, merging, relaunch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from agent.core.errors import TcbRejected
from tdx import abi, tcb
from tdx.collateral import STATUSES
from tests.unit.tdx.world import PCESVN, TDX_SVN, World, level, platform_level

MERGED = [
    (("UpToDate", "UpToDate"), "UpToDate"),
    (("UpToDate", "OutOfDate"), "OutOfDate"),
    (("SWHardeningNeeded", "UpToDate"), "SWHardeningNeeded"),
    (("SWHardeningNeeded", "OutOfDate"), "OutOfDate"),
    (("ConfigurationNeeded", "OutOfDate"), "OutOfDateConfigurationNeeded"),
    (("ConfigurationAndSWHardeningNeeded", "OutOfDate"), "OutOfDateConfigurationNeeded"),
    (("ConfigurationNeeded", "SWHardeningNeeded"), "ConfigurationAndSWHardeningNeeded"),
    (("OutOfDateConfigurationNeeded", "UpToDate"), "OutOfDateConfigurationNeeded"),
    (("Revoked", "UpToDate"), "Revoked"),
    (("Revoked", "NoMatchingLevel"), "NoMatchingLevel"),
]


@pytest.mark.parametrize(("parts", "whole"), MERGED)
def test_merge(parts: tuple[str, str], whole: str) -> None:
    assert tcb.merge(*parts) == tcb.merge(*reversed(parts)) == whole


def test_merge_is_never_milder_than_a_part() -> None:
    words = [*STATUSES, tcb.NO_LEVEL]
    for first, second in itertools.product(words, repeat=2):
        whole = tcb.merge(first, second)
        assert whole in words
        assert tcb.merge(whole, first) == whole
        assert (whole == "UpToDate") == (first == second == "UpToDate")


def status(world: World) -> str:
    return world.verify().tcb_status


PLATFORM: list[tuple[dict[str, Any], str]] = [
    ({"sgx": (3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)}, "UpToDate"),
    ({"sgx": (3, 3, 2, 2, 4, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0)}, "OutOfDate"),
    ({"sgx": (3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1)}, "OutOfDate"),
    ({"pcesvn": PCESVN + 1}, "OutOfDate"),
    ({"pcesvn": PCESVN - 1}, "UpToDate"),
    ({"tdx": (255, 255, *TDX_SVN[2:])}, "UpToDate"),
    ({"tdx": (6, 0, 4, *TDX_SVN[3:])}, "OutOfDate"),
    ({"tdx": (6, 0, 3, *TDX_SVN[3:15], 1)}, "OutOfDate"),
]


@pytest.mark.parametrize(("asked", "word"), PLATFORM)
def test_platform_level(asked: dict[str, Any], word: str) -> None:
    world = World()
    world.tcb_info["tcbLevels"][0] = platform_level(**asked)
    verified = world.verify()
    assert verified.tcb_status == word
    assert verified.fields["tcb_status_detail"]["tcb_level_status"] == word
    assert verified.advisories == (("SA-1",) if word == "OutOfDate" else ())


def test_the_first_level_that_fits_counts() -> None:
    world = World()
    world.tcb_info["tcbLevels"].insert(0, platform_level("ConfigurationNeeded", "SA-9"))
    assert status(world) == "ConfigurationNeeded"
    assert world.verify().advisories == ("SA-9",)


def test_module_of_version_0_is_judged_by_the_platform_level() -> None:
    world = World()
    world.kind, world.header = abi.Body, {"version": 4}
    world.tcb_info["tdxModuleIdentities"] = []
    for svn, word in ((6, "UpToDate"), (5, "OutOfDate")):
        world.body = {"tee_tcb_svn": bytes([svn, 0, 3, *[0] * 13])}
        verified = world.verify()
        assert verified.tcb_status == word
        assert verified.fields["tcb_status_detail"]["tdx_module_status"] == "UpToDate"
        assert verified.fields["tcb_status_detail"]["tdx_module_date"] is None


def test_old_enclave() -> None:
    world = World()
    world.qe = {"isvsvn": 3}
    verified = world.verify()
    assert (verified.tcb_status, verified.advisories) == ("OutOfDate", ("SA-3",))
    assert verified.fields["tcb_status_detail"]["qe_status"] == "OutOfDate"


def _svn(module: int) -> bytes:
    return bytes([module, 1, 3, *[0] * 13])


RELAUNCH = [
    (2, 6, "UpToDate", "TDRelaunchAdvised"),
    (2, 6, "ConfigurationNeeded", "TDRelaunchAdvisedConfigurationNeeded"),
    (2, 6, "SWHardeningNeeded", "TDRelaunchAdvised"),
    (2, 6, "ConfigurationAndSWHardeningNeeded", "TDRelaunchAdvisedConfigurationNeeded"),
    (2, 6, "OutOfDateConfigurationNeeded", "OutOfDateConfigurationNeeded"),
    (2, 6, "OutOfDate", "OutOfDate"),
    (2, 2, "UpToDate", "OutOfDate"),
    (6, 6, "UpToDate", "UpToDate"),
    (6, 2, "UpToDate", "OutOfDate"),
]


@pytest.mark.parametrize(("launched", "current", "platform", "word"), RELAUNCH)
def test_relaunch(launched: int, current: int, platform: str, word: str) -> None:
    world = World()
    world.body = {"tee_tcb_svn": _svn(launched), "tee_tcb_svn_2": _svn(current)}
    world.tcb_info["tcbLevels"] = [platform_level(platform)]
    assert status(world) == word


def test_a_failing_current_module_is_a_failure() -> None:
    world = World()
    world.body = {"tee_tcb_svn_2": _svn(3)}
    world.tcb_info["tdxModuleIdentities"][0]["tcbLevels"][1] = level({"isvsvn": 2}, "Revoked")
    with pytest.raises(TcbRejected, match="Revoked"):
        world.verify()


def test_no_relaunch_without_the_second_svn() -> None:
    world = World()
    world.kind, world.body = abi.Body, {"tee_tcb_svn": _svn(2)}
    verified = world.verify()
    assert (verified.tcb_status, verified.advisories) == ("OutOfDate", ("SA-2",))
