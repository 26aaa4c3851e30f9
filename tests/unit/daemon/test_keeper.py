"""Persistent keys in a running signer: restored, locked until the root and their evidence are there, told of."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from agent.core.errors import (
    ConfigError,
    Conflict,
    ServerError,
    TransportError,
)
from agent.core.statement import AuditHead
from agent.daemon import keeper as keepers
from agent.daemon.journal import Reports
from agent.daemon.keeper import Keeper
from agent.daemon.keyfolder import KeyFolder
from agent.daemon.keyhistory import History
from tests.support.keyfolders import after_a_crash, fresh, spkis
from tests.support.named import HOUR, World
from tests.support.signers import Signer, code_of, played
from tests.support.waiting import until


def files_of(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.iterdir()}


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "RETRY_SECONDS", 0.0)


def test_a_restored_key_is_the_same_with_a_new_statement(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        first = await one.create(lifetime=100 * HOUR)
        assert (first.persistent, one.keeper.summary()["keys"]) == (True, 1)
        second = await one.keys.rotate("uid-1", "a", HOUR)
        forever = await one.create("b")
        old = one.keys.find("uid-1", "a", 1)
        one.end()

        two = Signer(tmp_path)
        two.world.at += HOUR / 2
        await two.opened()
        for before in (old, second, forever):
            after = two.keys.find(before.namespace, before.name, before.generation)
            assert after.attachments.spki == before.attachments.spki
            assert (after.created, after.ends, after.newest) == (before.created, before.ends, before.newest)
            assert (after.use, after.persistent) == (before.use, True)
            assert after.statement.created == two.world.at.replace(microsecond=0)
            assert after.statement.digest() != before.statement.digest()
            assert after.attachments.blob != before.attachments.blob
        assert old.ends == old.created + HOUR
        told = two.journal.of("key.restored")
        assert sorted((fields["key"], fields["generation"]) for fields in told) == [
            ("uid-1/a", 1),
            ("uid-1/a", 2),
            ("uid-1/b", 1),
        ]
        assert two.journal.of("keys.opened") == [{"serial": 3, "keys": 2, "broken": 0, "removed": 0}]
        third = await two.keys.rotate("uid-1", "a", timedelta(0))
        assert (third.generation, third.persistent) == (3, True)
        await two.followed()
        two.end()
        assert spkis(fresh(tmp_path)) == {
            "uid-1/a": [old.attachments.spki, third.attachments.spki],
            "uid-1/b": [forever.attachments.spki],
        }

    played(body)


def test_without_overlap_the_old_key_leaves_the_disk_with_the_rotation(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path / "keys")
        await one.opened()
        await one.create()
        second = await one.keys.rotate("uid-1", "a", timedelta(0))
        crashed = after_a_crash(one.folder.path, tmp_path / "crashed")
        assert spkis(crashed) == {"uid-1/a": [second.attachments.spki]}
        one.end()

    played(body)


def test_the_audit_log_is_told_of_changes_and_asked_at_the_start(tmp_path: Path) -> None:
    class Doubting(History):
        def doubts(self, serial: int, head: AuditHead | None) -> list[str]:
            return [f"the log knows more than {serial}"]

    async def body() -> None:
        one = Signer(tmp_path)
        one.keeper = Keeper(one.folder, one._asked, Reports(one.journal), Doubting(tmp_path, lambda: None))
        one.world = World(keeper=one.keeper)
        one.keys = one.world.keys
        await one.opened()
        assert one.keeper.summary()["doubts"] == ["the log knows more than 0"]
        assert one.journal.of("keys.strange") == [{"note": "the log knows more than 0"}]
        await one.create("a", HOUR)
        await one.keys.rotate("uid-1", "a", HOUR)
        await one.create("b")
        await one.keys.destroy("uid-1", "b")
        one.world.at += HOUR
        await one.followed()
        told = [(fields["key"], fields["serial"]) for fields in one.journal.of("keys.changed")]
        assert told[:4] == [("uid-1/a", 1), ("uid-1/a", 2), ("uid-1/b", 3), ("uid-1/b", 4)]
        assert told[-1] == ("uid-1/a", one.folder.serial)
        one.end()

    played(body)


def test_keys_of_this_boot_never_reach_the_disk(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        key = await one.world.create()
        assert not key.persistent
        await one.keys.rotate("uid-1", "a", timedelta(0))
        await one.followed()
        await one.keys.destroy("uid-1", "a")
        one.end()
        assert (fresh(tmp_path).serial, spkis(fresh(tmp_path))) == (0, {})

    played(body)


def test_until_the_root_comes_keys_are_locked_and_their_names_taken(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        key = await one.create()
        one.end()

        two = Signer(tmp_path)
        two.come.clear()
        two.errors = [TransportError("no service")]
        assert two.keys.held["uid-1", "a"].reason == keepers.NO_ROOT
        two.start()
        await asyncio.sleep(0)
        for wish in (
            lambda: two.keys.get("uid-1", "a"),
            lambda: two.keys.rotate("uid-1", "a", HOUR),
            lambda: two.keys.destroy("uid-1", "a"),
            lambda: two.create("new"),
        ):
            with pytest.raises(ServerError) as caught:
                await wish()
            assert (code_of(caught), caught.value.retry_after > 0) == ("server.locked", True)
        with pytest.raises(Conflict) as taken:
            await two.world.create("a")
        assert code_of(taken) == "conflict.key"
        assert {name: held.state for name, held in two.keys.held.items()} == {("uid-1", "a"): "locked"}
        assert (await two.world.create("other")).persistent is False
        assert two.keeper.summary()["locked"] == 1
        two.come.set()
        await two.true(lambda found: found["keys"] == 1)
        assert [error.message for error in two.logged] == ["no service"]
        assert two.keys.find("uid-1", "a").attachments.spki == key.attachments.spki
        await two.true(lambda found: found["trouble"] is None)
        assert two.keys.held == {}
        two.end()

    played(body)


def test_why_a_key_is_locked_is_said(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create()
        one.end()
        two = Signer(tmp_path)
        two.errors = [TransportError("no service")] * 100_000
        two.start()
        await two.true(lambda found: found["trouble"] is not None)
        with pytest.raises(ServerError, match="no service"):
            two.keys.find("uid-1", "a")
        with pytest.raises(ServerError, match="persistent keys are locked: no service"):
            await two.create("b")
        two.folder.release()
        set_mode(tmp_path, 0o755)
        two.errors.clear()
        await two.true(lambda found: "alone" in str(found["trouble"]))
        with pytest.raises(ServerError, match="alone"):
            two.keys.find("uid-1", "a")
        set_mode(tmp_path, 0o700)
        await two.true(lambda found: found["keys"] == 1)
        two.end()

    played(body)


def test_without_a_root_in_the_configuration_the_folder_is_only_looked_at(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        await one.create()
        one.end()
        files = files_of(tmp_path)
        keeper = Keeper(KeyFolder(tmp_path), None, Reports())
        world = World(keeper=keeper)
        task = asyncio.create_task(keeper.run(lambda *_: None))
        with pytest.raises(ConfigError) as caught:
            await world.keys.create("uid-1", "b", "Ed25519", "raw", persistent=True)
        assert code_of(caught) == "config.sealing"
        for wish in (lambda: world.keys.destroy("uid-1", "a"), lambda: world.create("a")):
            with pytest.raises((ConfigError, Conflict)):
                await wish()
        with pytest.raises(ServerError, match="no root") as locked:
            world.keys.find("uid-1", "a")
        assert code_of(locked) == "server.locked"
        await asyncio.sleep(0.01)
        task.cancel()
        assert files_of(tmp_path) == files
        # Nothing is held by it either.
        KeyFolder(tmp_path).lock()
        with pytest.raises(ConfigError):
            await World().keys.create("uid-1", "b", "Ed25519", "raw", persistent=True)

    played(body)


def test_two_signers_on_one_folder_are_refused(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        with pytest.raises(Conflict) as caught:
            Signer(tmp_path)
        assert code_of(caught) == "conflict.running"
        one.end()

    played(body)


def test_a_key_waits_for_its_evidence_and_the_one_that_is_asked_for_is_first(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        await one.opened()
        for name in "abcd":
            await one.create(name)
        one.end()

        two = Signer(tmp_path)
        two.world.quotes.gate.clear()
        two.start()
        await until(lambda: len(two.world.quotes.asked) == 1)
        with pytest.raises(ServerError, match="its evidence of this boot") as caught:
            two.keys.find("uid-1", "d")
        assert code_of(caught) == "server.locked"
        await two.keys.destroy("uid-1", "b")
        two.world.quotes.gate.set()
        await two.true(lambda found: not found["locked"])
        assert [fields["key"] for fields in two.journal.of("key.restored")] == ["uid-1/a", "uid-1/d", "uid-1/c"]
        assert len(two.world.quotes.asked) == 3
        two.end()
        assert sorted(spkis(fresh(tmp_path))) == ["uid-1/a", "uid-1/c", "uid-1/d"]

    played(body)
