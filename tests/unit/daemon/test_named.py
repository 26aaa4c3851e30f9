"""Named keys over quotes that need no hardware, with a calendar that only moves when told to."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import pickle
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core.algorithm import ALGORITHMS
from agent.core.binding import Scope
from agent.core.errors import (
    Conflict,
    DeadlineExceeded,
    FormatError,
    ServerError,
    TeeAgentError,
    TransportError,
    UsageError,
)
from agent.daemon import named, turns
from agent.daemon.keys import Attester, Terms
from agent.daemon.keystore import MAX_GENERATIONS
from agent.daemon.named import Limits, NamedKey, NamedKeys
from agent.verify.signature import verifies
from tests.support.quotes import FakeQuotes, complete

BOOT = "6a1c1f0e-5b1d-4f57-9f5a-0e6d2f0c9b11"
BEGIN = datetime(2026, 3, 1, 12, 0, 0, 700_000, UTC)
HOUR = timedelta(hours=1)
ANY = Limits(100, 100)


class World:
    """Keys, the quotes behind them, and a calendar."""

    def __init__(self, limits: Limits = ANY) -> None:
        self.quotes = FakeQuotes()
        self.at = BEGIN
        terms = Terms(Scope("rp", BOOT), 24 * HOUR, 30)
        self.keys = NamedKeys(Attester(terms, self.quotes, complete, lambda: None, lambda: self.at), limits)
        self.logged: list[TeeAgentError] = []

    async def create(
        self, name: str = "a", namespace: str = "uid-1", algorithm: str = "Ed25519", lifetime: timedelta | None = None
    ) -> NamedKey:
        return await self.keys.create(namespace, name, algorithm, "bundle", lifetime)

    async def renew(self, true: Callable[[], bool]) -> None:
        """Let the background work go on until ``true``."""
        task = asyncio.create_task(self.keys.run(lambda _, error: self.logged.append(error)))
        await until(true)
        task.cancel()


def run(body: Callable[[World], Coroutine[Any, Any, None]], limits: Limits = ANY) -> None:
    async def main() -> None:
        await body(World(limits))

    asyncio.run(main())


async def until(true: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_is_bound_and_signs(algorithm: str) -> None:
    async def body(world: World) -> None:
        key = await world.keys.create("uid-7", "mine", algorithm, "raw")
        said = key.statement
        assert world.quotes.asked == [("signing_key", algorithm, "raw", key.attachments.spki, said.digest())]
        assert (said.algorithm, said.use, said.owner, said.audience) == (algorithm, "raw", "uid-7", "rp")
        assert (said.created, said.expires) == (BEGIN.replace(microsecond=0), BEGIN.replace(microsecond=0) + 24 * HOUR)
        assert (key.algorithm.name, key.use, key.generation, key.newest, key.ends) == (algorithm, "raw", 1, True, None)
        assert verifies(key.algorithm, key.attachments.spki, key.sign(b"data"), b"data")
        assert await world.keys.get("uid-7", "mine") == key

    run(body)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_digests(algorithm: str) -> None:
    async def body(world: World) -> None:
        key = await world.create(algorithm=algorithm)
        one = key.algorithm
        digest = hashlib.new(one.hash.replace("-", "") or "sha512", b"data").digest()
        if not one.hash:
            with pytest.raises(UsageError, match="never a digest"):
                key.private.sign_digest(digest)
            return
        assert verifies(one, key.attachments.spki, key.private.sign_digest(digest), b"data")
        with pytest.raises(FormatError, match=one.hash):
            key.private.sign_digest(digest[1:])

    run(body)


def test_signatures_always_have_the_lower_s() -> None:
    async def body(world: World) -> None:
        for name in ("ECDSA-P256", "ECDSA-P384", "ECDSA-secp256k1"):
            key = await world.create(name.lower(), algorithm=name)
            assert all(key.algorithm.is_canonical(key.sign(b"%d" % index)) for index in range(40))

    run(body)


def secret_of(key: NamedKey) -> str:
    held = key.private._key
    if isinstance(held, Ed25519PrivateKey):
        return held.private_bytes_raw().hex()
    return f"{held.private_numbers().private_value:x}"


def test_private_keys_show_themselves_to_nobody() -> None:
    async def body(world: World) -> None:
        for index, algorithm in enumerate(ALGORITHMS):
            key = await world.create(f"k{index}", algorithm=algorithm)
            secret = secret_of(key)
            for shown in (repr(key), repr(key.private), str(key.private), repr(world.keys), repr(world.keys.__dict__)):
                assert secret not in shown.lower()
            for leak in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError):
                    leak(key.private)

    run(body)


def test_namespaces_see_their_own() -> None:
    async def body(world: World) -> None:
        mine, theirs = await world.create("a", "uid-1"), await world.create("a", "uid-2")
        await world.create("b", "uid-2")
        assert mine.attachments.spki != theirs.attachments.spki
        assert [key.name for key in world.keys.list("uid-1")] == ["a"]
        assert [key.name for key in world.keys.list("uid-2")] == ["a", "b"]
        assert world.keys.list("uid-3") == ()
        for method in (world.keys.find, world.keys.destroy):
            with pytest.raises(UsageError) as caught:
                method("uid-1", "b")
            assert caught.value.code == "usage.key"
        world.keys.destroy("uid-2", "a")
        assert world.keys.find("uid-1", "a") == mine

    run(body)


def test_what_can_not_be_made() -> None:
    async def body(world: World) -> None:
        await world.create("taken")
        with pytest.raises(Conflict) as caught:
            await world.create("taken")
        assert caught.value.code == "conflict.key"
        for name in ("", "A", "-a", ".a", "a/b", "a b", "a" * 64, "\u00e4", "a\n"):
            with pytest.raises(UsageError):
                await world.create(name)
        with pytest.raises(FormatError):
            await world.create(algorithm="RSA")
        for use, algorithm in (("internal", "Ed25519"), ("", "Ed25519"), ("ssh", "ECDSA-secp256k1")):
            with pytest.raises(UsageError):
                await world.keys.create("uid-1", "x", algorithm, use)
        with pytest.raises(UsageError):
            await world.create("x", lifetime=timedelta(seconds=9))
        assert (world.keys.count, len(world.quotes.asked)) == (1, 1)

    run(body)


def test_limits_count_generations() -> None:
    async def body(world: World) -> None:
        await world.create("a", "uid-1")
        await world.keys.rotate("uid-1", "a", HOUR)
        for make in (world.create("b", "uid-1"), world.keys.rotate("uid-1", "a", HOUR)):
            with pytest.raises(Conflict, match=r"as many keys as may be$") as caught:
                await make
            assert caught.value.code == "conflict.limit"
        await world.create("a", "uid-2")
        with pytest.raises(Conflict, match="over all callers"):
            await world.create("b", "uid-2")
        world.at += HOUR + timedelta(seconds=1)
        await world.create("b", "uid-1")

    run(body, Limits(3, 2))


def test_rotation_overlaps() -> None:
    async def body(world: World) -> None:
        first = await world.create(lifetime=10 * HOUR)
        world.at += HOUR
        second = await world.keys.rotate("uid-1", "a", HOUR)
        assert (second.generation, second.newest, second.ends) == (2, True, second.created + 10 * HOUR)
        assert second.attachments.spki != first.attachments.spki
        assert world.keys.find("uid-1", "a").generation == 2
        old = await world.keys.get("uid-1", "a", 1)
        assert (old.attachments.spki, old.newest) == (first.attachments.spki, False)
        assert [key.generation for key in world.keys.list("uid-1")] == [1, 2]
        world.at += HOUR
        with pytest.raises(UsageError, match="no generation 1") as caught:
            await world.keys.get("uid-1", "a", 1)
        assert caught.value.code == "usage.key"
        with pytest.raises(UsageError, match="destroyed meanwhile"):
            await world.keys.current(old)
        assert (await world.keys.rotate("uid-1", "a", timedelta(0))).generation == 3
        assert [key.generation for key in world.keys.list("uid-1")] == [3]

    run(body)


def test_an_overlap_prolongs_nothing_and_has_a_limit() -> None:
    async def body(world: World) -> None:
        first = await world.create(lifetime=HOUR)
        for _ in range(MAX_GENERATIONS - 1):
            await world.keys.rotate("uid-1", "a", 5 * HOUR)
        assert [key.ends for key in world.keys.list("uid-1")] == [first.ends] * MAX_GENERATIONS
        with pytest.raises(Conflict, match="generations") as caught:
            await world.keys.rotate("uid-1", "a", HOUR)
        assert caught.value.code == "conflict.limit"

    run(body)


def test_a_lifetime_ends_by_the_calendar() -> None:
    async def body(world: World) -> None:
        key = await world.create(lifetime=2 * HOUR)
        assert key.ends == key.created + 2 * HOUR == key.statement.expires
        world.at = key.ends - timedelta(seconds=1)
        assert await world.keys.get("uid-1", "a") == key
        world.at = key.ends
        for gone in (world.keys.get("uid-1", "a"), world.keys.current(key), world.keys.rotate("uid-1", "a", HOUR)):
            with pytest.raises(UsageError, match="there is no key"):
                await gone
        assert (world.keys.list("uid-1"), world.keys.count) == ((), 0)
        await world.create()  # the name is free again

    run(body)


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
    monkeypatch.setattr(turns, "EACH", 2)
    monkeypatch.setattr(turns, "MOST", 3)

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
        world.keys.destroy("uid-1", "a")
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
        keys.destroy("uid-1", "a")
        await keys.create("uid-1", "b", "Ed25519", "raw", HOUR)
        world.at += HOUR
        assert keys.count == 0
        assert [(key.name, key.generation) for key in ended] == [("a", 1), ("b", 1)]

    run(body)
