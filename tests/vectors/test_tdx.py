"""Every genuine TDX quote: fields, identical re-serialisation, verdict, TCB status and its parts, changed bits."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import ChainInvalid, TcbRejected, TeeAgentError, Truncated, UntrustedRoot
from agent.core.model import Endorsements, TrustAnchor
from agent.verify.endorsements import load_folder
from tdx import abi, chain, collateral, tcb
from tdx.certs import load_certificate
from tdx.roots import GENUINE
from tdx.verify import verify
from tests.support import vectors

CASES = vectors.cases("tdx")
ONE = [case for case in CASES if case.id in {"v5-uptodate", "absent"}]
PREPRODUCTION = [case for case in CASES if case.id in {"v4-preproduction-root", "absent"}]
REFUSED: dict[str, tuple[type[TeeAgentError], str]] = {
    "neg-pck-chain-swapped": (ChainInvalid, "PCK certificate chain is not in leaf, intermediate, root order"),
    "neg-signature-len-overflow": (Truncated, "signature data length is larger than the remaining bytes"),
    "v4-preproduction-root": (UntrustedRoot, "is not a trusted root"),
    "v4-spr-2023-no-tcb-level": (TcbRejected, "TCB status is NoMatchingLevel"),
    "v5-no-tcb-level": (TcbRejected, "TCB status is NoMatchingLevel"),
}


def quote_of(folder: Path) -> bytes:
    return (folder / "quote.bin").read_bytes()


@functools.cache
def endorsements(folder: Path) -> Endorsements:
    return load_folder(folder / "collateral") if (folder / "collateral").is_dir() else Endorsements()


def at(folder: Path) -> datetime:
    return datetime.fromisoformat(vectors.meta(folder)["verify_at"])


@pytest.mark.parametrize("folder", CASES)
def test_parses_and_writes_back(folder: Path) -> None:
    delivered = quote_of(folder)
    if folder.name == "neg-signature-len-overflow":
        with pytest.raises(Truncated, match=vectors.meta(folder)["expected_error"]):
            abi.parse(delivered)
        return
    quote = abi.parse(delivered)
    assert quote.encode() == quote.data
    assert quote.data + bytes(quote.trailing) == delivered
    expected = vectors.meta(folder)["expected"]
    assert {name: value for name, value in expected.items() if name not in {"fmspc", "pck"}} in ({}, quote.fields())


@pytest.mark.parametrize("folder", CASES)
def test_verdict(folder: Path) -> None:
    meta = vectors.meta(folder)
    if folder.name in REFUSED:
        kind, message = REFUSED[folder.name]
        with pytest.raises(kind, match=message):
            verify(quote_of(folder), endorsements(folder), GENUINE, at(folder))
        return
    verified = verify(quote_of(folder), endorsements(folder), GENUINE, at(folder))
    parts: dict[str, Any] = {"tcb_status": meta["tcb_status"], "tcb_status_detail": meta["tcb_status_detail"]}
    assert verified.fields == meta["expected"] | parts
    assert verified.tcb_status == meta["tcb_status"]
    assert set(meta["tcb_status_detail"]["advisory_ids"]) <= set(verified.advisories)
    assert not verified.added_root
    assert [check.number for check in verified.checks] == list(range(1, 14))
    ends = [datetime.fromisoformat(end) for _, end in meta["collateral_validity"].values()]
    assert verified.not_after == min(ends)


@pytest.mark.parametrize("folder", CASES)
def test_status_of_each_part(folder: Path) -> None:
    """Also where no level fits, which verify() refuses."""
    meta = vectors.meta(folder)
    if "tcb_status_detail" not in meta:
        assert meta["tcb_status"] == "n/a"
        return
    quote = abi.parse(quote_of(folder))
    trusted = chain.trusted_chain(quote.certificates, GENUINE)
    given = endorsements(folder)
    signers = chain.tcb_signers(given.certificates, trusted.root)
    info, _ = collateral.load_tcb_info(given.tcb_info, signers)
    identity, _ = collateral.load_qe_identity(given.qe_identity, signers)
    judgement = tcb.evaluate(info, identity, trusted.platform, quote.body, quote.qe_report)
    assert judgement.detail == meta["tcb_status_detail"]
    assert judgement.status == meta["tcb_status"]


@pytest.mark.parametrize("folder", CASES)
def test_without_collateral_the_signatures_still_decide(folder: Path) -> None:
    if folder.name in REFUSED and REFUSED[folder.name][0] is not TcbRejected:
        with pytest.raises(REFUSED[folder.name][0]):
            verify(quote_of(folder), Endorsements(), GENUINE, at(folder))
        return
    verified = verify(quote_of(folder), Endorsements(), GENUINE, at(folder))
    assert verified.tcb_status == "n/a"
    assert verified.revocation == "not checked"
    assert len(verified.not_checked) == 3


@pytest.mark.parametrize("folder", PREPRODUCTION)
def test_another_root_only_when_added(folder: Path) -> None:
    quote = abi.parse(quote_of(folder))
    root = load_certificate(chain.split_pem(quote.certificates)[2], "root")
    added = TrustAnchor("sandbox", root.spki_sha256)
    verified = verify(quote_of(folder), Endorsements(), (*GENUINE, added), at(folder))
    assert verified.root == added
    assert verified.added_root
    assert verified.fields == vectors.meta(folder)["expected"]


def _bits(data: bytes) -> list[bytes]:
    """``data`` with one bit of each byte changed, another in each byte."""
    changed = []
    for index, value in enumerate(data):
        copy = bytearray(data)
        copy[index] = value ^ 1 << (index * 5 % 8)
        changed.append(bytes(copy))
    return changed


def _accepted(spoilt: list[bytes], attempt: Callable[[bytes], object]) -> list[int]:
    accepted = []
    for index, data in enumerate(spoilt):
        try:
            attempt(data)
        except TeeAgentError:
            continue
        accepted.append(index)
    return accepted


@pytest.mark.parametrize("folder", ONE)
def test_a_changed_bit_of_the_quote_is_refused(folder: Path) -> None:
    given, moment = endorsements(folder), at(folder)
    quote = quote_of(folder)
    assert verify(quote, given, GENUINE, moment).tcb_status == "UpToDate"
    assert _accepted(_bits(quote), lambda spoilt: verify(spoilt, given, GENUINE, moment)) == []


@pytest.mark.parametrize("folder", ONE)
@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_a_changed_bit_of_collateral_is_refused(folder: Path, part: str) -> None:
    given, moment, quote = endorsements(folder), at(folder), quote_of(folder)

    def attempt(spoilt: bytes) -> object:
        changes: dict[str, Any] = {part: spoilt}
        return verify(quote, dataclasses.replace(given, **changes), GENUINE, moment)

    assert _accepted(_bits(getattr(given, part)), attempt) == []


@pytest.mark.parametrize("folder", ONE)
@pytest.mark.parametrize("part", ["certificates", "crls"])
def test_a_changed_bit_of_what_is_used_is_refused(folder: Path, part: str) -> None:
    given, moment, quote = endorsements(folder), at(folder), quote_of(folder)
    members: tuple[bytes, ...] = getattr(given, part)
    used = [one for one in members if part == "crls" or chain.TCB_SIGNER.encode() in one]
    assert len(used) == {"crls": 2, "certificates": 1}[part]
    for member in used:
        others = tuple(one for one in members if one != member)

        def attempt(spoilt: bytes, others: tuple[bytes, ...] = others) -> object:
            changes: dict[str, Any] = {part: (*others, spoilt)}
            return verify(quote, dataclasses.replace(given, **changes), GENUINE, moment)

        attempt(member)
        assert _accepted(_bits(member), attempt) == []


@pytest.mark.parametrize("folder", ONE)
def test_what_is_not_needed_is_ignored(folder: Path) -> None:
    """Another vendor's certificates, the chain again, and things that are no certificate at all."""
    given = endorsements(folder)
    extra = tuple(hashlib.sha256(bytes([index])).digest() for index in range(4))
    more = dataclasses.replace(given, certificates=(*extra, *given.certificates))
    assert verify(quote_of(folder), more, GENUINE, at(folder)).tcb_status == "UpToDate"
