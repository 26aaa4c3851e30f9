"""Persistent keys in a running signer: locked, restored, broken, followed; and what the disk's errors leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import (
    ConfigError,
    Conflict,
    DeadlineExceeded,
    ServerError,
    TeeAgentError,
    TransportError,
    UsageError,
)
from agent.core.statement import AuditHead
from agent.daemon import keeper as keepers
from agent.daemon import named
from agent.daemon.journal import Reports
from agent.daemon.keeper import Keeper
from agent.daemon.keyfolder import KeyFolder, Sealer
from agent.daemon.keyhistory import History
from agent.daemon.named import Limits, NamedKey
from agent.daemon.peers import Caller
from tests.support.keyfolders import after_a_crash, failing, fresh, sealer, spkis
from tests.support.named import ANY, HOUR, World, until

SECOND = timedelta(seconds=1)


class Journal:
    """agent.daemon.journal.Journal that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, Any]]] = []

    def event(self, kind: str, *, severity: str, caller: Mapping[str, Any] | None = None, **fields: Any) -> None:
        self.heard.append((kind, severity, fields))

    def signed(self, caller: Caller, key_id: str, count: int = 1) -> None:
        raise AssertionError

    def used(self, kind: str, caller: Caller, what: str, count: int = 1) -> None:
        raise AssertionError

    def failed(self, what: str, error: TeeAgentError) -> None:
        raise AssertionError

    def require_writable(self) -> None:
        raise AssertionError

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for heard, _, fields in self.heard if heard == kind]


class Signer:
    """A process's life: keys over a folder. ``errors`` are what the root's source says first."""

    def __init__(self, path: Path, limits: Limits = ANY, root: Sealer | None = None) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        self.folder = KeyFolder(path)
        self.journal = Journal()
        self.root, self.errors = root or sealer(), list[TeeAgentError]()
        self.come = asyncio.Event()
        self.come.set()
        self.keeper = Keeper(self.folder, self._asked, Reports(self.journal))
        self.world = World(limits, self.keeper)
        self.keys = self.world.keys
        self.logged: list[TeeAgentError] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def _asked(self) -> Sealer:
        await self.come.wait()
        if self.errors:
            raise self.errors.pop(0)
        return self.root

    def start(self) -> None:
        self.tasks += [
            asyncio.create_task(self.keeper.run(lambda _, error: self.logged.append(error))),
            asyncio.create_task(self.keys.run(lambda _, error: self.logged.append(error))),
        ]

    async def opened(self) -> None:
        """Started, the root there, all keys restored that can be."""
        self.start()
        await self.true(lambda found: found["open"] and not found["locked"])

    async def true(self, what: Callable[[dict[str, Any]], bool]) -> None:
        await until(lambda: what(self.keeper.summary()))

    async def create(self, name: str = "a", lifetime: timedelta | None = None, namespace: str = "uid-1") -> NamedKey:
        return await self.keys.create(namespace, name, "Ed25519", "bundle", lifetime, persistent=True)

    async def followed(self) -> None:
        """Until the disk has what memory has."""
        self.keys.all()
        self.keeper.wake()
        await self.true(lambda found: found["unwritten"] == 0 and found["trouble"] is None)

    def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.folder.release()


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


def files_of(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.iterdir()}


def key_files(path: Path) -> list[str]:
    return [one.name for one in path.iterdir() if one.name.endswith(".key")]


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


def code(error: pytest.ExceptionInfo[TeeAgentError]) -> str:
    return error.value.code


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

    run(body)


def test_without_overlap_the_old_key_leaves_the_disk_with_the_rotation(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path / "keys")
        await one.opened()
        await one.create()
        second = await one.keys.rotate("uid-1", "a", timedelta(0))
        crashed = after_a_crash(one.folder.path, tmp_path / "crashed")
        assert spkis(crashed) == {"uid-1/a": [second.attachments.spki]}
        one.end()

    run(body)


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

    run(body)


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

    run(body)


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
            assert (code(caught), caught.value.retry_after > 0) == ("server.locked", True)
        with pytest.raises(Conflict) as taken:
            await two.world.create("a")
        assert code(taken) == "conflict.key"
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

    run(body)


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

    run(body)


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
        assert code(caught) == "config.sealing"
        for wish in (lambda: world.keys.destroy("uid-1", "a"), lambda: world.create("a")):
            with pytest.raises((ConfigError, Conflict)):
                await wish()
        with pytest.raises(ServerError, match="no root") as locked:
            world.keys.find("uid-1", "a")
        assert code(locked) == "server.locked"
        await asyncio.sleep(0.01)
        task.cancel()
        assert files_of(tmp_path) == files
        # Nothing is held by it either.
        KeyFolder(tmp_path).lock()
        with pytest.raises(ConfigError):
            await World().keys.create("uid-1", "b", "Ed25519", "raw", persistent=True)

    run(body)


def test_two_signers_on_one_folder_are_refused(tmp_path: Path) -> None:
    async def body() -> None:
        one = Signer(tmp_path)
        with pytest.raises(Conflict) as caught:
            Signer(tmp_path)
        assert code(caught) == "conflict.running"
        one.end()

    run(body)


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
        assert code(caught) == "server.locked"
        await two.keys.destroy("uid-1", "b")
        two.world.quotes.gate.set()
        await two.true(lambda found: not found["locked"])
        assert [fields["key"] for fields in two.journal.of("key.restored")] == ["uid-1/a", "uid-1/d", "uid-1/c"]
        assert len(two.world.quotes.asked) == 3
        two.end()
        assert sorted(spkis(fresh(tmp_path))) == ["uid-1/a", "uid-1/c", "uid-1/d"]

    run(body)


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

    run(body)


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

    run(body)


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

    run(body)


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

    run(body)


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
            assert (code(caught), "nothing was deleted" in caught.value.hint) == ("conflict.broken", True)
        for make in (two.create("a"), two.world.create("a")):
            with pytest.raises(Conflict) as taken:
                await make
            assert code(taken) == "conflict.key"
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

    run(body)


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
        assert code(caught) == "server.locked"
        assert two.keeper.trouble is not None
        assert files_of(tmp_path) == files
        two.root = sealer()
        await two.true(lambda found: found["keys"] == 1)
        two.end()

    run(body)


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
        assert code(caught) == "conflict.limit"
        await two.world.create("c", "uid-2")
        two.end()

    run(body)


# The disk's errors.


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
                assert code(caught) == "server.storage"
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

    run(body)


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

    run(body)


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

    run(body)


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

    run(body)


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

    run(body)


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

    run(body)
