"""Persistent keys that change while others wait: destroyed, ended, broken, under another root, too many."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.core.errors import (
    Conflict,
    DeadlineExceeded,
    ServerError,
    TransportError,
    UsageError,
)
from agent.daemon import keeper as keepers
from agent.daemon import named
from agent.daemon.named import Limits, NamedKey
from tests.support.keyfolders import fresh, sealer, spkis
from tests.support.named import HOUR
from tests.support.signers import Signer, code_of, played
from tests.support.waiting import until


def files_of(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.iterdir()}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "RETRY_SECONDS", 0.0)


def test_a_key_that_is_destroyed_while_its_evidence_is_made_stays_destroyed(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create()
        one.end()
        two = Signer(tmp_path)
        two.world.quotes.gate.clear()
        two.start()
        await until(lambda: len(two.world.quotes.asked) == 1)
        await two.keys.destroy("uid-1", "a")
        two.world.quotes.gate.set()
        await two.create("b")
        with pytest.raises(UsageError):
            two.keys.find("uid-1", "a")
        assert two.journal.of("key.restored") == []
        two.end()
        assert list(spkis(fresh(tmp_path))) == ["uid-1/b"]

    played(body)


def test_a_quoter_that_fails_delays_and_loses_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        for name in "abc":
            await one.create(name)
        one.end()
        two = Signer(tmp_path)
        two.world.quotes.failures = [TransportError("the quoter is gone")] * 4
        await two.opened()
        assert two.keeper.summary()["keys"] == 3
        assert [error.message for error in two.logged] == ["the quoter is gone"]
        two.end()

    played(body)


def test_what_ended_meanwhile_is_not_restored_and_leaves_the_disk(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create("short", lifetime=HOUR)
        await one.create("long")
        await one.keys.rotate("uid-1", "long", HOUR)
        one.end()
        assert {name: len(keys) for name, keys in spkis(fresh(tmp_path)).items()} == {"uid-1/short": 1, "uid-1/long": 2}
        two = Signer(tmp_path)
        two.world.at += 2 * HOUR
        await two.opened()
        await two.followed()
        assert [(key.name, key.generation) for key in two.keys.all()] == [("long", 2)]
        assert (await two.create("short")).generation == 1
        two.end()
        assert {name: len(keys) for name, keys in spkis(fresh(tmp_path)).items()} == {"uid-1/short": 1, "uid-1/long": 1}

    played(body)


def test_a_name_that_ended_is_free_once_it_is_off_the_disk(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create("a", HOUR)
        one.world.at += HOUR
        with pytest.raises(Conflict, match="leaves the disk"):
            await one.create("a")
        await one.followed()
        await one.world.create("a")
        one.end()
        assert spkis(fresh(tmp_path)) == {}

    played(body)


def broken(path: Path, name: str) -> None:
    (file,) = path.glob(f"uid-1@{name}@*.key")
    file.write_bytes(b"{}")


def test_a_broken_key_is_told_keeps_its_name_and_can_be_destroyed(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create("a")
        await one.create("b")
        one.end()
        broken(tmp_path, "a")
        two = Signer(tmp_path)
        await two.opened()
        for wish in (two.keys.get("uid-1", "a"), two.keys.rotate("uid-1", "a", HOUR)):
            with pytest.raises(Conflict) as caught:
                await wish
            assert (code_of(caught), "nothing was deleted" in caught.value.hint) == ("conflict.broken", True)
        for make in (two.create("a"), two.world.create("a")):
            with pytest.raises(Conflict) as taken:
                await make
            assert code_of(taken) == "conflict.key"
        assert [key.name for key in two.keys.all()] == ["b"]
        assert two.keeper.summary()["broken"] == 1
        (told,) = two.journal.of("key.broken")
        assert told["key"] == "uid-1/a"
        gone: list[NamedKey | None] = []

        async def hear(key: NamedKey | None) -> None:
            gone.append(key)

        await two.keys.destroy("uid-1", "a", hear)
        await two.keys.destroy("uid-1", "b", hear)
        assert [key and key.name for key in gone] == [None, "b"]
        await two.create("a")
        two.end()
        assert list(spkis(fresh(tmp_path))) == ["uid-1/a"]

    played(body)


def test_another_root_breaks_all_and_deletes_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create()
        one.end()
        files = files_of(tmp_path)
        two = Signer(tmp_path, root=sealer(bytes(32)))
        two.start()
        await two.true(lambda found: found["broken"] == 1)
        with pytest.raises(Conflict, match=sealer().root_id):
            two.keys.find("uid-1", "a")
        with pytest.raises(ServerError) as caught:
            await two.create("b")
        assert code_of(caught) == "server.locked"
        assert two.keeper.trouble is not None
        assert files_of(tmp_path) == files
        two.root = sealer()
        await two.true(lambda found: found["keys"] == 1)
        two.end()

    played(body)


def test_held_names_count_against_the_limits(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create("a")
        await one.create("b")
        one.end()
        two = Signer(tmp_path, Limits(3, 2))
        with pytest.raises(Conflict) as caught:
            await two.world.create("c")
        assert code_of(caught) == "conflict.limit"
        await two.world.create("c", "uid-2")
        two.end()

    played(body)


def test_who_leaves_does_not_stop_a_key_from_being_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create("old")
        one.world.quotes.gate.clear()
        leaving = asyncio.create_task(one.create("a"))
        await until(lambda: len(one.world.quotes.asked) == 2)
        leaving.cancel()
        one.world.quotes.gate.set()
        await until(lambda: len(one.keys.all()) == 2)
        monkeypatch.setattr(named, "WAIT_SECONDS", 0.0)
        with pytest.raises(DeadlineExceeded):
            await one.keys.destroy("uid-1", "old")
        await until(lambda: len(one.keys.all()) == 1)
        one.end()
        assert list(spkis(fresh(tmp_path))) == ["uid-1/a"]

    played(body)


def test_a_rotation_and_a_destruction_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create("a")
        one.world.quotes.gate.clear()
        rotating = asyncio.create_task(one.keys.rotate("uid-1", "a", HOUR))
        await until(lambda: len(one.world.quotes.asked) == 2)
        await one.keys.destroy("uid-1", "a")
        one.world.quotes.gate.set()
        with pytest.raises(UsageError, match="destroyed meanwhile"):
            await rotating
        one.end()
        assert spkis(fresh(tmp_path)) == {}

    played(body)
