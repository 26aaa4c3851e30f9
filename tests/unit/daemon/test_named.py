"""Named keys: made, limited, rotated, ended."""

from __future__ import annotations

import copy
import hashlib
import pickle
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core.algorithm import ALGORITHMS
from agent.core.errors import (
    Conflict,
    FormatError,
    UsageError,
)
from agent.daemon.keystore import MAX_GENERATIONS
from agent.daemon.named import Limits, NamedKey
from agent.verify.signature import verifies
from tests.support.named import BEGIN, HOUR, World, run


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
        with pytest.raises(UsageError) as caught:
            world.keys.find("uid-1", "b")
        assert caught.value.code == "usage.key"
        with pytest.raises(UsageError) as caught:
            await world.keys.destroy("uid-1", "b")
        assert caught.value.code == "usage.key"
        await world.keys.destroy("uid-2", "a")
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
