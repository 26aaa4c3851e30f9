"""The two statements: the one outer form, strict needed fields, tolerated unknown ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.core.errors import FormatError, Oversized
from tdx import collateral
from tests.unit.tdx.world import World, components

Change = Callable[[World], Any]


def _levels(world: World) -> Any:
    return world.tcb_info["tcbLevels"][0]


def _info(**changes: Any) -> Change:
    return lambda world: world.tcb_info.update(changes)


def _identity(**changes: Any) -> Change:
    return lambda world: world.qe_identity.update(changes)


MALFORMED: list[tuple[str, Change]] = [
    ("id is 'SGX'", _info(id="SGX")),
    ("version is 2", _info(version=2)),
    ("version is True", _identity(version=True)),
    ("id is 'QE'", _identity(id="QE")),
    ("not 6 bytes in hex", _info(fmspc="00")),
    ("fromhex", _info(fmspc="zz" * 6)),
    ("not 2 bytes in hex", _info(pceId=0)),
    ("is not a time", _info(issueDate="2026-05-31")),
    ("is not a time", _info(nextUpdate=5)),
    ("month must be", _info(nextUpdate="2026-13-01T00:00:00Z")),
    ("non-negative integer", _info(tcbEvaluationDataNumber="20")),
    ("non-negative integer", _identity(isvprodid=-2)),
    ("tcbLevels is missing", lambda world: world.tcb_info.pop("tcbLevels")),
    ("mrsigner is missing", lambda world: world.qe_identity.pop("mrsigner")),
    ("'NewWord' is not known", lambda world: _levels(world).update(tcbStatus="NewWord")),
    ("components", lambda world: _levels(world)["tcb"].update(sgxtcbcomponents=components((1,) * 15))),
    ("components", lambda world: _levels(world)["tcb"].update(tdxtcbcomponents=components((True,) * 16))),
    ("components", lambda world: _levels(world)["tcb"].update(tdxtcbcomponents=components((-1,) * 16))),
    ("not TDX_ and two", lambda world: world.tcb_info["tdxModuleIdentities"][0].update(id="TDX_1")),
    ("QE identity: ", _identity(tcbLevels=[5])),
    ("TCB info: ", _info(tdxModule=[])),
]


@pytest.mark.parametrize(("message", "change"), MALFORMED)
def test_signed_but_malformed(message: str, change: Change) -> None:
    world = World()
    change(world)
    with pytest.raises(FormatError, match=message):
        world.verify()


def test_unknown_signed_fields_are_tolerated() -> None:
    world = World()
    world.tcb_info["new"] = {"deep": [1]}
    world.qe_identity["tcbLevels"][0]["new"] = None
    assert world.verify().tcb_status == "UpToDate"


def test_hex_of_signed_fields_in_either_case() -> None:
    for change in (str.upper, str.lower):
        world = World()
        world.tcb_info["fmspc"] = change(world.tcb_info["fmspc"])
        assert world.verify().tcb_status == "UpToDate"


def test_the_outer_form_has_no_freedom() -> None:
    world = World()
    good = world.endorsements()
    body = good.tcb_info
    signature = body[-130:-2]
    for spoilt in (
        body.replace(b'{"tcbInfo":', b'{ "tcbInfo":'),
        body.replace(signature, signature.upper()),
        body.replace(b',"signature"', b', "signature"'),
        body + b" ",
        b"\xef\xbb\xbf" + body,
        body.replace(signature, signature[:-2]),
    ):
        assert spoilt != body
        with pytest.raises(FormatError, match="as Intel serves it"):
            world.verify(replace(good, tcb_info=spoilt))


def test_size_is_bounded() -> None:
    world = World()
    with pytest.raises(Oversized):
        world.verify(replace(world.endorsements(), qe_identity=b"{" * (collateral.MAX_SIZE + 1)))
