"""Persistent keys and a disk that fails: what it leaves, what is tried again, and what goes on meanwhile."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from agent.core.errors import (
    ServerError,
    UsageError,
)
from agent.daemon import keeper as keepers
from tests.support.keyfolders import failing, fresh, spkis
from tests.support.named import HOUR
from tests.support.signers import Signer, code_of, played


def key_files(path: Path) -> list[str]:
    return [one.name for one in path.iterdir() if one.name.endswith(".key")]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "RETRY_SECONDS", 0.0)


def test_a_disk_that_fails_makes_no_key_and_changes_none(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        key = await one.create()
        with failing(1, many=1000).installed():
            for wish in (
                lambda: one.create("b"),
                lambda: one.keys.rotate("uid-1", "a", HOUR),
                lambda: one.keys.destroy("uid-1", "a"),
            ):
                with pytest.raises(ServerError) as caught:
                    await wish()
                assert code_of(caught) == "server.storage"
            assert [one.attachments.spki for one in one.keys.all()] == [key.attachments.spki]
            assert one.keys.find("uid-1", "a").ends is None
            assert await one.keys.get("uid-1", "a") == key
            assert len(key.sign(b"x")) == 64
        await one.create("b")
        second = await one.keys.rotate("uid-1", "a", HOUR)
        assert second.generation == 2
        await one.followed()
        one.end()
        assert {name: len(keys) for name, keys in spkis(fresh(tmp_path)).items()} == {"uid-1/a": 2, "uid-1/b": 1}

    played(body)


def test_what_a_change_could_not_tidy_is_trouble_and_tried_again(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create("a")
        # write, fsync, rename, fsync of the index: done. All that follows fails for a while.
        with failing(5, many=40).installed():
            await one.keys.destroy("uid-1", "a")
            with pytest.raises(UsageError):
                one.keys.find("uid-1", "a")
            assert len(key_files(tmp_path)) == 1
            await one.true(lambda found: found["trouble"] is not None)
        await one.true(lambda found: found["trouble"] is None)
        assert key_files(tmp_path) == []
        one.end()
        assert spkis(fresh(tmp_path)) == {}

    played(body)


def test_an_end_that_can_not_be_written_is_written_later(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create("a", HOUR)
        one.world.at += HOUR
        with failing(1, many=20).installed():
            assert one.keys.all() == ()
            one.keeper.wake()
            await one.true(lambda found: found["trouble"] is not None)
        await one.followed()
        one.end()
        assert spkis(fresh(tmp_path)) == {}

    played(body)


def test_a_disk_that_fails_is_not_tried_without_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "RETRY_SECONDS", 1000.0)

    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create("a", HOUR)
        one.world.at += HOUR
        faults = failing(1, many=1_000_000)
        with faults.installed():
            assert one.keys.all() == ()
            one.keeper.wake()
            await one.true(lambda found: found["trouble"] is not None)
            tried = faults.made
            for _ in range(100):
                one.keeper.wake()
                await asyncio.sleep(0)
            assert faults.made == tried
        one.end()

    played(body)


def test_a_disk_that_can_not_be_tidied_at_the_start_locks_no_key(tmp_path: Path) -> None:
    """What a kill left is still there, and the disk is full or read-only since: keys sign all the same."""

    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create("a")
        await one.create("short", lifetime=HOUR)
        await one.create("z")
        one.end()
        (tmp_path / "index.new").touch()
        two = Signer(tmp_path)
        two.world.at += HOUR
        with failing(1, many=1_000_000, number=errno.EROFS).installed():
            await two.opened()
            await two.true(lambda found: found["keys"] == 2)
            assert len(two.keys.find("uid-1", "a").sign(b"x")) == 64
            await two.true(lambda found: found["trouble"] and found["trouble"]["code"] == "server.storage")
        await two.followed()
        two.end()
        assert list(spkis(fresh(tmp_path))) == ["uid-1/a", "uid-1/z"]

    played(body)
