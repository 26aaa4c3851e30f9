"""Where a key is kept, as its statements say it: from the first to the last, over renewals, rotations and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.core.errors import Conflict
from agent.core.model import Secret
from agent.daemon import keeper as keepers
from agent.daemon.journal import Reports
from agent.daemon.keeper import Keeper
from agent.daemon.keyfolder import KeyFolder
from agent.daemon.keys import RETRY_MAX, KeyRing
from agent.daemon.named import NamedKey, NamedKeys
from agent.daemon.report import describe_key, describe_named
from agent.sealing import Sealer
from tests.support.named import HOUR, World
from tests.support.waiting import until

SECRET = bytes(range(32))
ROOTS: dict[str, Callable[[], Sealer]] = {
    "tas": lambda: Sealer.from_tas(Secret(bytearray(SECRET)), "sealing-1"),
    "snp-derived": lambda: Sealer.from_snp(Secret(bytearray(SECRET))),
}
"""Of one secret: the kind alone makes the difference."""


@pytest.fixture(autouse=True)
def no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that does not open is not opened again while the next process wants it."""
    monkeypatch.setattr(keepers, "RETRY_SECONDS", RETRY_MAX)


@asynccontextmanager
async def signer(path: Path, kind: str, later: timedelta = timedelta(0)) -> AsyncIterator[World]:
    """A process's life with the keys of this folder under a root of this kind, until nothing more comes of it."""
    folder = KeyFolder(path)

    async def root() -> Sealer:
        return ROOTS[kind]()

    world = World(keeper=Keeper(folder, root, Reports()))
    world.at += later
    assert world.keeper is not None
    task = asyncio.create_task(world.keeper.run(lambda _, error: world.logged.append(error)))
    keeper = world.keeper
    await until(lambda: bool(keeper.trouble) or (keeper.summary()["open"] and not keeper.summary()["locked"]))
    try:
        yield world
    finally:
        task.cancel()
        folder.release()


def quoted(world: World, key: NamedKey) -> str:
    """What the statement says, once it is certain that the evidence was asked for over this very statement."""
    assert key.statement.digest() in [asked[4] for asked in world.quotes.asked if asked[0] == "signing_key"]
    assert (key.statement.storage != "memory") == key.persistent == describe_named(key)["persistent"]
    assert describe_key(key)["storage"] == key.statement.storage
    return key.statement.storage


async def renewed(world: World, key: NamedKey) -> NamedKey:
    """The same private key with its next statement."""
    world.at += 25 * HOUR
    found = await world.keys.current(key)
    assert (found.private, found.statement.digest()) != (key.private, key.statement.digest())
    assert found.private is key.private
    return found


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


async def create(keys: NamedKeys, name: str, *, persistent: bool) -> NamedKey:
    return await keys.create("uid-1", name, "Ed25519", "bundle", persistent=persistent)


@pytest.mark.parametrize("kind", ROOTS)
def test_every_statement_of_a_key_says_where_it_is_kept(tmp_path: Path, kind: str) -> None:
    async def body() -> None:
        async with signer(tmp_path, kind) as world:
            passing = await create(world.keys, "p", persistent=False)
            lasting = await create(world.keys, "l", persistent=True)
            assert (quoted(world, passing), quoted(world, lasting)) == ("memory", kind)
            assert quoted(world, await renewed(world, passing)) == "memory"
            assert quoted(world, await renewed(world, lasting)) == kind
            for key, kept in ((passing, "memory"), (lasting, kind)):
                assert quoted(world, await world.keys.rotate("uid-1", key.name, HOUR)) == kept
                assert quoted(world, world.keys.find("uid-1", key.name, 1)) == kept
        async with signer(tmp_path, kind, later=50 * HOUR + HOUR / 2) as world:
            assert [key.name for key in world.keys.all()] == ["l", "l"]
            assert {quoted(world, key) for key in world.keys.all()} == {kind}
            restored = world.keys.find("uid-1", "l")
            assert restored.attachments.spki != lasting.attachments.spki
            assert world.keys.find("uid-1", "l", 1).attachments.spki == lasting.attachments.spki
            assert quoted(world, await renewed(world, restored)) == kind
            assert quoted(world, await world.keys.rotate("uid-1", "l", HOUR)) == kind
            assert quoted(world, await create(world.keys, "p", persistent=False)) == "memory"
            assert quoted(world, await create(world.keys, "n", persistent=True)) == kind

    asyncio.run(body())


@pytest.mark.parametrize(("kind", "other"), [("tas", "snp-derived"), ("snp-derived", "tas")])
def test_no_private_key_is_ever_sealed_under_two_kinds_of_roots(tmp_path: Path, kind: str, other: str) -> None:
    """Then neither word would be the whole truth: what was made under one kind is no key under another."""

    async def body() -> None:
        async with signer(tmp_path, kind) as world:
            await create(world.keys, "l", persistent=True)
        before = files(tmp_path)
        async with signer(tmp_path, other) as world:
            with pytest.raises(Conflict, match=ROOTS[kind]().root_id):
                world.keys.find("uid-1", "l")
            assert world.quotes.asked == []
        assert files(tmp_path) == before
        async with signer(tmp_path, kind) as world:
            assert quoted(world, world.keys.find("uid-1", "l")) == kind

    asyncio.run(body())


def test_the_agent_s_own_key_is_of_this_boot(tmp_path: Path) -> None:
    async def body() -> None:
        async with signer(tmp_path, "tas") as world:
            world.at = datetime.now(UTC)
            ring = KeyRing(world.keys._attester)
            task = asyncio.create_task(ring.run(lambda _, error: world.logged.append(error)))
            first = await ring.current()
            ring.renew()
            await until(lambda: ring.held is not first)
            second = ring.held
            task.cancel()
            assert second is not None
            for key in (first, second):
                assert (key.statement.storage, describe_key(key)["storage"]) == ("memory", "memory")
                assert key.statement.digest() in [asked[4] for asked in world.quotes.asked]

    asyncio.run(body())
