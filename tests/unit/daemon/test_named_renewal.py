"""Named keys: evidence renewed, missing, late; callers who leave; what a journal hears."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from agent.core.errors import (
    Conflict,
    DeadlineExceeded,
    ServerError,
    TransportError,
    UsageError,
)
from agent.daemon import budget, named
from agent.daemon.budget import Share
from agent.daemon.named import NamedKey, NamedKeys
from tests.support.named import ANY, BEGIN, HOUR, World, run
from tests.support.waiting import until


def test_evidence_is_renewed_for_the_same_key() -> None:
    async def body(world: World) -> None:
        key = await world.create(lifetime=30 * HOUR)
        world.at = BEGIN + 24 * HOUR * 0.8 - timedelta(seconds=10)
        await asyncio.sleep(0)
        assert world.keys.find("uid-1", "a") == key
        world.at += timedelta(seconds=10)
        await world.renew(lambda: len(world.quotes.asked) == 2)
        await until(lambda: world.keys.find("uid-1", "a") != key)
        new = world.keys.find("uid-1", "a")
        assert new.private is key.private
        assert new.attachments.blob != key.attachments.blob
        assert (new.statement.created, new.statement.expires) == (world.at.replace(microsecond=0), key.ends)
        assert (await world.keys.current(key)).attachments == new.attachments

    run(body)


def test_nothing_is_renewed_that_ends_with_its_statement() -> None:
    async def body(world: World) -> None:
        key = await world.create(lifetime=HOUR)
        await world.create("b", lifetime=30 * HOUR)
        world.at += HOUR - timedelta(seconds=1)
        await world.renew(lambda: True)
        assert world.keys.find("uid-1", "a") == key
        world.at += timedelta(seconds=1)
        await world.renew(lambda: world.keys.count == 1)
        assert len(world.quotes.asked) == 2

    run(body)


def test_after_a_sleep_the_first_use_renews_and_all_share_one_quote() -> None:
    async def body(world: World) -> None:
        key = await world.create()
        world.at += 100 * HOUR
        world.quotes.gate.clear()
        waiting = [asyncio.create_task(world.keys.current(key)) for _ in range(50)]
        await until(lambda: len(world.quotes.asked) == 2)
        world.quotes.gate.set()
        found = await asyncio.gather(*waiting)
        assert {one.statement.created for one in found} == {world.at.replace(microsecond=0)}
        assert len(world.quotes.asked) == 2

    run(body)


def test_a_clock_that_was_set_back_renews_too() -> None:
    async def body(world: World) -> None:
        await world.create()
        world.at -= HOUR
        assert (await world.keys.get("uid-1", "a")).statement.created == world.at.replace(microsecond=0)

    run(body)


def test_without_a_quote_there_is_no_key_and_the_old_one_stays() -> None:
    async def body(world: World) -> None:
        world.quotes.failures = [TransportError("the quoter is gone")]
        with pytest.raises(TransportError, match="gone"):
            await world.create()
        assert world.keys.count == 0
        key = await world.create()
        world.quotes.failures = [TransportError("gone again")]
        with pytest.raises(TransportError):
            await world.keys.rotate("uid-1", "a", timedelta(0))
        assert world.keys.find("uid-1", "a") == key
        world.at += 25 * HOUR
        world.quotes.failures = [TransportError("and again")]
        with pytest.raises(TransportError, match="and again"):
            await world.keys.current(key)
        assert (await world.keys.current(key)).private is key.private

    run(body)


def test_renewal_pauses_after_a_failure_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "RETRY_SECONDS", 0.0)

    async def body(world: World) -> None:
        key = await world.create()
        world.at += 20 * HOUR
        world.quotes.failures = [TransportError("gone")] * 3
        await world.renew(lambda: world.keys.find("uid-1", "a") != key and not world.keys.trouble)
        assert [error.message for error in world.logged] == ["gone"]
        assert len(world.quotes.asked) == 5

    run(body)


def test_who_leaves_ends_no_quote_and_who_is_too_many_waits_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """One quote at a time, whoever leaves; a namespace's share does not keep the next one out."""
    monkeypatch.setattr(budget, "KEYS", Share(total=3, each=2, sure=0))

    async def body(world: World) -> None:
        world.quotes.gate.clear()
        leaving = asyncio.create_task(world.create("a"))
        await until(lambda: len(world.quotes.asked) == 1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        second = asyncio.create_task(world.create("b"))
        await until(lambda: world.keys.waiting == 2)
        with pytest.raises(ServerError) as caught:
            await world.create("c")
        assert (caught.value.code, caught.value.retry_after >= 1) == ("server.budget", True)
        with pytest.raises(Conflict, match="being made"):
            await world.create("b")
        other = asyncio.create_task(world.create("a", "uid-2"))
        await until(lambda: world.keys.waiting == 3)
        with pytest.raises(ServerError):
            await world.create("a", "uid-3")
        assert len(world.quotes.asked) == 1
        world.quotes.gate.set()
        await asyncio.gather(second, other)
        assert {key.name for key in world.keys.list("uid-1")} == {"a", "b"}

    run(body)


def test_a_quote_that_does_not_come_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "WAIT_SECONDS", 0.01)

    async def body(world: World) -> None:
        world.quotes.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await world.create()
        world.quotes.gate.set()
        await until(lambda: world.keys.count == 1)

    run(body)


def test_a_key_destroyed_while_it_rotates_stays_destroyed() -> None:
    async def body(world: World) -> None:
        key = await world.create()
        world.quotes.gate.clear()
        rotating = asyncio.create_task(world.keys.rotate("uid-1", "a", HOUR))
        await until(lambda: len(world.quotes.asked) == 2)
        await world.keys.destroy("uid-1", "a")
        world.quotes.gate.set()
        with pytest.raises(UsageError, match="destroyed meanwhile"):
            await rotating
        assert world.keys.count == 0
        with pytest.raises(UsageError, match="there is no key"):
            await world.keys.current(key)

    run(body)


def test_who_keeps_a_journal_hears_of_keys_that_nobody_waits_for_and_of_their_end() -> None:
    made: list[NamedKey] = []
    ended: list[NamedKey] = []

    async def tell(key: NamedKey) -> None:
        made.append(key)

    async def body(world: World) -> None:
        keys = NamedKeys(world.keys._attester, ANY, ended.append)
        world.quotes.gate.clear()
        leaving = asyncio.create_task(keys.create("uid-1", "a", "Ed25519", "raw", HOUR, made=tell))
        await until(lambda: len(world.quotes.asked) == 1)
        leaving.cancel()
        world.quotes.gate.set()
        await until(lambda: len(made) == 1)
        await keys.rotate("uid-1", "a", timedelta(0), made=tell)
        assert [key.generation for key in made] == [1, 2]
        assert [key.generation for key in keys.list("uid-1")] == [2]
        assert [key.generation for key in ended] == [1]
        await keys.destroy("uid-1", "a")
        await keys.create("uid-1", "b", "Ed25519", "raw", HOUR)
        world.at += HOUR
        assert keys.count == 0
        assert [(key.name, key.generation) for key in ended] == [("a", 1), ("b", 1)]

    run(body)
