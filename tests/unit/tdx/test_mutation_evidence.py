"""Quotes of both versions with their collateral: each flipped bit and each length, through the whole verifier.

Of the PEM chain in a quote, which is most of it, one bit of each byte is tried, going round; of all else every bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from agent.core.errors import FormatError, TeeAgentError, Truncated, VerificationError
from agent.core.model import Endorsements
from tdx import abi, collateral
from tdx.certs import load_certificate, load_crl
from tests.support.mutations import cuts, flips, one_per_byte
from tests.unit.tdx.world import World

KINDS: list[tuple[int, type[abi.Body]]] = [(4, abi.Body), (5, abi.Body), (5, abi.Body15)]
HEADS = abi.SignatureHead.SIZE + abi.QeCertification.SIZE


def made(version: int, kind: type[abi.Body]) -> World:
    world = World()
    world.header, world.kind = {"version": version}, kind
    return world


def refused(call: Callable[[bytes], Any], changed: Iterable[tuple[int, bytes]]) -> Iterator[int]:
    """Numbers of those inputs that pass; anything but a typed error passes on."""
    for number, data in changed:
        try:
            call(data)
        except (FormatError, VerificationError):
            continue
        yield number


@pytest.mark.parametrize(("version", "kind"), KINDS, ids=["4", "5 with TD 1.0", "5 with TD 1.5"])
def test_every_flipped_bit_of_a_quote_is_refused(version: int, kind: type[abi.Body]) -> None:
    world = made(version, kind)
    quote, bag = world.quote(), world.endorsements()
    assert world.verify(bag, quote).version == version
    chain = len(quote) - len(abi.parse(quote).certificates)
    places = [*range(8 * chain), *one_per_byte(chain, len(quote))]
    assert list(refused(lambda data: world.verify(bag, data), flips(quote, places))) == []


@pytest.mark.parametrize(("version", "kind"), KINDS, ids=["4", "5 with TD 1.0", "5 with TD 1.5"])
def test_every_flipped_bit_of_a_quote_is_refused_or_read_back(version: int, kind: type[abi.Body]) -> None:
    for _, changed in flips(made(version, kind).quote()):
        try:
            assert abi.parse(changed).encode() == changed
        except FormatError:
            continue


@pytest.mark.parametrize(("version", "kind"), KINDS, ids=["4", "5 with TD 1.0", "5 with TD 1.5"])
def test_every_cut_of_a_quote_is_truncated(version: int, kind: type[abi.Body]) -> None:
    for _, cut in cuts(made(version, kind).quote()):
        with pytest.raises(Truncated):
            abi.parse(cut)


def test_padding_is_zero_in_every_bit() -> None:
    quote = World().quote()
    assert abi.parse(quote + bytes(70)).trailing == 70
    places = range(8 * len(quote), 8 * (len(quote) + 70))
    assert list(refused(abi.parse, flips(quote + bytes(70), places))) == []


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_every_flipped_bit_and_cut_of_a_statement_is_refused(part: str) -> None:
    world = World()
    bag = world.endorsements()
    load = {"tcb_info": collateral.load_tcb_info, "qe_identity": collateral.load_qe_identity}[part]
    signers = [load_certificate(world.signer.der(), "signer")]
    body: bytes = getattr(bag, part)
    assert load(body, signers)
    assert list(refused(lambda data: load(data, signers), flips(body))) == []
    assert list(refused(lambda data: load(data, signers), cuts(body))) == []


def spoiled(bag: Endorsements, field: str, index: int, data: bytes) -> Endorsements:
    items = list(getattr(bag, field))
    items[index] = data
    return replace(bag, certificates=tuple(items)) if field == "certificates" else replace(bag, crls=tuple(items))


@pytest.mark.parametrize(
    ("field", "index"), [("certificates", 2), ("crls", 0), ("crls", 1)], ids=["TCB signer", "PCK CRL", "root CRL"]
)
def test_every_flipped_bit_and_cut_beside_a_quote_is_refused(field: str, index: int) -> None:
    world = World()
    bag, quote = world.endorsements(), world.quote()
    item: bytes = getattr(bag, field)[index]
    assert world.verify(bag, quote)

    def call(data: bytes) -> None:
        world.verify(spoiled(bag, field, index, data), quote)

    assert list(refused(call, flips(item))) == []
    assert list(refused(call, cuts(item))) == []


@pytest.mark.parametrize("index", [0, 1, 2], ids=["PCK", "authority", "root"])
def test_every_flipped_bit_of_a_chain_is_refused_or_changes_what_is_signed(index: int) -> None:
    ders = World().certificates()
    issuer = load_certificate(ders[min(index + 1, 2)], "issuer")

    def call(data: bytes) -> None:
        load_certificate(data, "certificate").require_issued_by(issuer)

    call(ders[index])
    assert list(refused(call, flips(ders[index]))) == []
    assert list(refused(call, cuts(ders[index]))) == []


def test_every_flipped_bit_of_a_list_gives_typed_errors_only() -> None:
    world = World()
    world.pck_crl.revoked = (3, 1 << 150)
    der = world.pck_crl.der()
    for _, changed in flips(der):
        try:
            found = load_crl(changed)
            found.revoked_at(3)
        except TeeAgentError:
            continue
        assert found.der == changed
