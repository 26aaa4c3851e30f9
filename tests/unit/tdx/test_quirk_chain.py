"""Quirks of Intel's certificates, collateral and quotes, made in a throw-away hierarchy: accepted, or refused by name."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import pytest

from agent.core.errors import TeeAgentError
from agent.core.model import TrustAnchor
from tdx import abi, appraise, verify
from tests.unit.tdx.world import DAY, NOW, TDX_SVN, List, World, level, platform_level


def code(world: World, quote: bytes | None = None) -> str:
    """The refusal's code, "" for none."""
    try:
        world.verify(quote=quote)
    except TeeAgentError as error:
        return error.code
    return ""


def test_root_re_issued_with_the_same_key_is_accepted() -> None:
    """Intel's root certificate exists twice, with other ends: the pin is over the key."""
    world = World()
    before = world.certificates()[2]
    world.root = dataclasses.replace(world.root, serial=99, start=NOW - 9 * DAY, end=NOW + 9 * DAY)
    assert world.certificates()[2] != before
    assert world.verify().root == world.anchor()


def test_pck_authority_and_signer_re_issued_with_the_same_key_are_accepted() -> None:
    world = World()
    world.ca = dataclasses.replace(world.ca, serial=98)
    world.signer = dataclasses.replace(world.signer, serial=97, start=NOW - DAY)
    assert world.verify().tcb_status == "UpToDate"
    world.root_crl = dataclasses.replace(world.root_crl, revoked=(2, 4))  # the earlier ones
    assert world.verify().revocation.startswith("as of ")
    world.root_crl = dataclasses.replace(world.root_crl, revoked=(98,))
    assert code(world) == "verify.revoked"


def test_a_genuine_anchor_wins_over_an_added_one_of_the_same_key() -> None:
    world = World()
    genuine = TrustAnchor("vendor", world.anchor().spki_sha256, genuine=True)
    for anchors in ((world.anchor(), genuine), (genuine, world.anchor())):
        world.anchors = anchors
        assert world.verify().root is genuine


@pytest.mark.parametrize(("version", "kind"), [(4, abi.Body), (5, abi.Body), (5, abi.Body15)])
def test_quote_versions_and_bodies(version: int, kind: type[abi.Body]) -> None:
    world = World()
    world.header, world.kind = {"version": version}, kind
    assert world.verify().fields["body_size"] == kind.SIZE


@pytest.mark.parametrize("body_type", [0, 1, 4, 0xFFFF])
def test_other_body_types_are_refused_by_name(body_type: int) -> None:
    quote = bytearray(World().quote())
    quote[48:50] = body_type.to_bytes(2, "little")
    with pytest.raises(TeeAgentError, match=f"body type {body_type} is not a TD report") as caught:
        World().verify(quote=bytes(quote))
    assert caught.value.code == "format.version"


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("more", [1, 70, 0xFFFFFFF0])
def test_signature_length_past_the_end(version: int, more: int) -> None:
    world = World()
    world.header, world.kind = {"version": version}, abi.Body if version == 4 else abi.Body15
    quote = bytearray(world.quote())
    at = len(abi.signed_part(abi.parse(bytes(quote)).header, abi.parse(bytes(quote)).body))
    size = int.from_bytes(quote[at : at + 4], "little")
    quote[at : at + 4] = min(size + more, 0xFFFFFFFF).to_bytes(4, "little")
    assert code(world, bytes(quote)) == "format.truncated"
    # As many zeros as it takes to make it true: then the certification data does not fill it.
    if more < 100:
        assert code(world, bytes(quote) + bytes(more)) == "format.oversized"


@pytest.mark.parametrize("zeros", [70, 307, 8000])
def test_zero_padding(zeros: int) -> None:
    world = World()
    assert world.verify(quote=world.quote() + bytes(zeros)).fields["trailing_bytes"] == zeros
    for index in (0, zeros - 1):
        tail = bytearray(zeros)
        tail[index] = 0x20
        assert code(world, world.quote() + bytes(tail)) == "format.oversized"


@pytest.mark.parametrize(
    ("part", "start", "end"),
    [
        ("pck_crl", NOW - 9 * DAY, NOW - DAY),
        ("root_crl", NOW - 9 * DAY, NOW - DAY),
        ("pck_crl", NOW + DAY, NOW + 9 * DAY),
        ("root_crl", NOW + DAY, NOW + 9 * DAY),
    ],
)
def test_crl_expired_or_from_the_future(part: str, start: datetime, end: datetime) -> None:
    world = World()
    made: List = getattr(world, part)
    setattr(world, part, dataclasses.replace(made, start=start, end=end))
    assert code(world) == "verify.validity"


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
@pytest.mark.parametrize(
    ("issued", "until"),
    [("2026-06-02T00:00:00Z", "2026-07-01T00:00:00Z"), ("2026-04-01T00:00:00Z", "2026-05-31T23:59:59Z")],
)
def test_collateral_from_the_future_or_expired(part: str, issued: str, until: str) -> None:
    world = World()
    getattr(world, part).update(issueDate=issued, nextUpdate=until)
    assert code(world) == "verify.validity"


def test_no_matching_tcb_level_fails_closed_in_every_part() -> None:
    changes: list[dict[str, Any]] = [
        {"tcb_info": {"tcbLevels": [platform_level(sgx=(4,) * 16)]}},
        {"tcb_info": {"tcbLevels": [platform_level(tdx=(0, 0, 4, *[0] * 13))]}},
        {"tcb_info": {"tcbLevels": []}},
        {"tcb_info": {"tdxModuleIdentities": []}},
        {"qe_identity": {"tcbLevels": []}},
        {"qe_identity": {"tcbLevels": [level({"isvsvn": 6})]}},
    ]
    for change in changes:
        world = World()
        for part, values in change.items():
            getattr(world, part).update(values)
        assert code(world) == "verify.tcb.no-level", change


def test_two_svns_differ_and_either_may_fail() -> None:
    """TEE_TCB_SVN is the launch's, TEE_TCB_SVN_2 that of now: no level for one of them is no level for the TD."""
    for name in ("tee_tcb_svn", "tee_tcb_svn_2"):
        world = World()
        world.body = {name: bytes([1, *TDX_SVN[1:]])}
        assert code(world) == "verify.tcb.no-level"


def test_a_large_bag_is_verified_but_not_kept() -> None:
    world = World()
    good, quote = world.endorsements(), world.quote()
    verify.forget()
    junk = bytes(300 * 1024)
    large = dataclasses.replace(good, certificates=(*good.certificates, junk), crls=(*good.crls, junk))
    assert world.verify(large, quote).tcb_status == "UpToDate"
    assert (appraise.collateral.cache_info().currsize, appraise.crls.cache_info().currsize) == (0, 0)
    assert world.verify(good, quote).tcb_status == "UpToDate"
    assert (appraise.collateral.cache_info().currsize, appraise.crls.cache_info().currsize) == (1, 1)
