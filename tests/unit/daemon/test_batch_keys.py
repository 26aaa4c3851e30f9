"""Challenges by keys that come to their end, are destroyed, rotated, or renewed while their quote is made."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.core.bundle import decode
from agent.core.errors import ServerError, UsageError
from agent.daemon import batch
from agent.daemon.keys import AttestedKey, KeyRing
from tests.support.batches import Batches, check
from tests.support.waiting import until


def test_keys_of_several_callers_share_a_tree_each_with_its_own_statement() -> None:
    async def body(world: Batches) -> None:
        one, two = await world.key("one"), await world.key("two", "ECDSA-P384", uid=2)
        world.quotes.gate.clear()
        first = world.ask(0)
        await until(lambda: len(world.trees) == 1)
        mixed = [world.ask(1, uid=1, holder=world.of(one)), world.ask(2, uid=2, holder=world.of(two)), world.ask(3)]
        await until(lambda: world.waiting == 4)
        world.quotes.gate.set()
        await first
        own, named = check((await mixed[2])[0], 3), check((await mixed[0])[0], 1)
        other = decode((await mixed[1])[0])
        assert len({bundle.attachments.blob for bundle in (own, named, other)}) == 1
        assert {bundle.fresh.root for bundle in (own, named, other) if bundle.fresh}.__len__() == 1
        held = world.ring.held
        assert held
        assert (own.attachments.spki, own.attachments.statement) == (held.attachments.spki, held.statement)
        assert (named.attachments.spki, named.attachments.statement) == (one.attachments.spki, one.statement)
        assert (other.attachments.spki, other.attachments.statement.owner) == (two.attachments.spki, "uid-2")
        public = load_der_public_key(other.attachments.spki)
        assert isinstance(public, EllipticCurvePublicKey)
        public.verify(two.algorithm.to_der(other.signature), other.signing_input(), ECDSA(SHA384()))

    Batches().run(body)


@dataclass
class Aging:
    """Its first keys have just ended when they are needed."""

    ring: KeyRing
    old: int
    lag: timedelta = timedelta(hours=2)
    """How long before it should they were made; negative where the clock was put back since."""

    async def current(self) -> AttestedKey:
        key = await self.ring.current()
        if not self.old:
            return key
        self.old -= 1
        made = key.statement
        old = replace(made, created=made.created - self.lag, expires=made.created - self.lag + timedelta(hours=1))
        return replace(key, attachments=replace(key.attachments, statement=old))

    def require(self) -> None:
        """It is there."""


@pytest.mark.parametrize("old", [1, 2])
@pytest.mark.parametrize("hours", [2, -2], ids=["too old", "of the future"])
def test_evidence_that_is_not_in_force_any_more_is_renewed_once(old: int, hours: int) -> None:
    async def body(world: Batches) -> None:
        task = world.ask(1, holder=Aging(world.ring, old, timedelta(hours=hours)))
        if old == 1:
            check((await task)[0], 1)
        else:
            with pytest.raises(ServerError, match="ran out"):
                await task
        assert world.waiting == 0

    Batches().run(body)


@pytest.mark.parametrize("during", ["the quote before", "its own quote"])
def test_a_key_destroyed_while_its_challenge_waits_signs_nothing(during: str) -> None:
    async def body(world: Batches) -> None:
        key = await world.key()
        world.quotes.gate.clear()
        first = world.ask(0)
        if during == "the quote before":
            await until(lambda: world.trees == [1])
        task = world.ask(1, uid=1, holder=world.of(key))
        await until(lambda: world.waiting == 2 and len(world.trees) == 1)
        await world.named.destroy("uid-1", "k")
        world.quotes.gate.set()
        check((await first)[0], 0)
        with pytest.raises(UsageError) as caught:
            await task
        assert caught.value.code == "usage.key"

    Batches().run(body)


def test_a_key_destroyed_while_its_answers_are_written_gives_out_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "SLICE_SECONDS", 0.0)

    async def body(world: Batches) -> None:
        task = world.ask(*range(20), uid=1, holder=world.of(await world.key()))
        for _ in range(1_000_000):
            if world.batcher.batches:
                break
            await asyncio.sleep(0)
        assert not task.done()
        await world.named.destroy("uid-1", "k")
        with pytest.raises(UsageError) as caught:
            await task
        assert caught.value.code == "usage.key"
        assert world.waiting == 0

    Batches().run(body)


@pytest.mark.parametrize("overlap", [0, 3600])
def test_a_key_rotated_during_the_quote_answers_for_as_long_as_it_may(overlap: int) -> None:
    async def body(world: Batches) -> None:
        key = await world.key()
        world.quotes.gate.clear()
        task = world.ask(1, uid=1, holder=world.of(key))
        await until(lambda: world.trees == [1])
        rotating = asyncio.create_task(world.named.rotate("uid-1", "k", timedelta(seconds=overlap)))
        await until(lambda: world.budget.keys == 1)
        world.quotes.gate.set()
        if overlap:
            made = check((await task)[0], 1).attachments
            assert (made.spki, made.statement) == (key.attachments.spki, key.statement)
            assert (await rotating).attachments.spki != key.attachments.spki
        else:
            # Written before the new generation is there, or refused: never signed by another key than was asked for.
            (found,) = await asyncio.gather(task, return_exceptions=True)
            await rotating
            if isinstance(found, BaseException):
                assert isinstance(found, UsageError)
            else:
                assert check(found[0], 1).attachments.spki == key.attachments.spki

    Batches().run(body)


def test_an_own_key_that_was_replaced_meanwhile_still_answers() -> None:
    """As after a change of the TCB: the evidence of the answer is the tree's, which is new in any case."""

    async def body(world: Batches) -> None:
        old = await world.ring.current()
        world.quotes.gate.clear()
        first = world.ask(0)
        await until(lambda: world.trees == [1])
        later = world.ask(1)
        await until(lambda: world.waiting == 2)
        world.ring.renew()
        world.quotes.gate.set()
        check((await first)[0], 0)
        bundle = check((await later)[0], 1)
        assert bundle.attachments.spki == old.attachments.spki
        await until(lambda: world.ring.held is not old)
        assert check((await world.ask(2))[0], 2).attachments.spki != old.attachments.spki

    Batches().run(body)
