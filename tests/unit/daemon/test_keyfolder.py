"""The folder of persistent keys: what lasts, what a disk that fails leaves, and what a hostile one can't pass off."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.core.algorithm import ALGORITHMS
from agent.core.errors import (
    ConfigError,
    Conflict,
    FormatError,
    Oversized,
    Rollback,
    ServerError,
    VerificationError,
)
from agent.core.statement import AuditHead
from agent.daemon import keydisk
from agent.daemon.keyfile import COPY, INDEX, Place, place
from agent.daemon.keyfolder import PURPOSE, KeyFolder
from agent.daemon.privatekey import PrivateKey, sealed
from tests.support.keyfolders import STEPS, after_a_crash, failing, fresh, made, public, put, sealer, spkis, stored


def key_file(path: Path, name: str) -> Path:
    """The one file of uid-1's key."""
    (found,) = path.glob(f"uid-1@{name}@*.key")
    return found


def names(path: Path) -> list[str]:
    """What each file is, without its id."""
    return sorted(one.name.rpartition("@")[0] or one.name for one in path.iterdir())


def test_what_was_put_is_there_and_what_was_removed_is_not(tmp_path: Path) -> None:
    folder = made(tmp_path / "keys")
    privates = {name.lower(): put(folder, name.lower(), name, name) for name in ALGORITHMS}
    put(folder, "gone")
    newer = put(folder, "ed25519", namespace="team")
    assert folder.remove(("uid-1", "gone")) == folder.serial == len(ALGORITHMS) + 3
    expected = {f"uid-1/{name}": [key.spki for key in keys] for name, keys in privates.items()}
    contents = after_a_crash(folder.path, tmp_path / "copy")
    assert spkis(contents) == {**expected, "team/ed25519": [newer[0].spki]}
    assert (contents.broken, contents.notes, contents.removed, contents.serial) == ({}, [], 0, folder.serial)
    for found in contents.keys:
        if found.stored.namespace == "uid-1":
            again = stored(found.stored.name, privates[found.stored.name])
            assert (found.stored.generations, found.stored.lifetime) == (again.generations, again.lifetime)
            assert (found.stored.use, found.stored.algorithm) == (again.use, again.algorithm)
    assert {one.stat().st_mode & 0o777 for one in folder.path.iterdir()} == {0o600}
    assert folder.names() == {found.stored.key for found in contents.keys}


def test_a_key_s_file_is_replaced_and_the_old_one_goes(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    old = key_file(tmp_path, "a")
    new = put(folder, "a", "Ed25519", "Ed25519")
    assert not old.exists()
    assert names(tmp_path) == [INDEX, COPY, "lock", "uid-1@a"]
    folder.release()
    (found,) = fresh(tmp_path).keys
    assert public(found) == [key.spki for key in new]


def test_nothing_readable_is_on_the_disk(tmp_path: Path) -> None:
    folder = made(tmp_path)
    seen: list[bytes] = []
    for name in ALGORITHMS:
        (key,) = put(folder, name.lower(), name)

        def look(plain: bytearray) -> bytes:
            seen.append(bytes(plain))
            return b""

        sealed(b"", [key], look)
    written = b"".join(one.read_bytes() for one in tmp_path.iterdir())
    for secret in seen:
        assert len(secret) in (32, 48)
        assert secret not in written
        assert secret.hex().encode() not in written


def test_the_buffer_of_secrets_is_wiped_even_when_sealing_fails() -> None:
    kept: list[bytearray] = []

    def refuse(plain: bytearray) -> bytes:
        kept.append(plain)
        assert any(plain)
        raise FormatError("no")

    with pytest.raises(FormatError):
        sealed(b"head", [PrivateKey(ALGORITHMS["ECDSA-P384"])] * 2, refuse)
    assert kept == [bytearray(4 + 96)]


def test_two_processes_on_one_folder_are_refused(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    for attempt in (KeyFolder(tmp_path).lock, lambda: KeyFolder(tmp_path).open(sealer())):
        with pytest.raises(Conflict) as caught:
            attempt()
        assert caught.value.code == "conflict.running"
    folder.release()
    assert len(fresh(tmp_path).keys) == 1


def test_a_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    for mode in (0o750, 0o705, 0o770):
        tmp_path.chmod(mode)
        with pytest.raises(ConfigError, match="the signer's user alone"):
            KeyFolder(tmp_path).lock()
    link = tmp_path / "link"
    tmp_path.chmod(0o700)
    link.symlink_to(tmp_path)
    with pytest.raises(ConfigError):
        KeyFolder(link).lock()
    with pytest.raises(ServerError) as caught:
        KeyFolder(tmp_path / "missing").open(sealer())
    assert caught.value.code == "server.storage"
    assert KeyFolder(tmp_path / "missing").names() == frozenset()


# A disk that fails.


def changes(folder: KeyFolder) -> dict[str, Callable[[], object]]:
    return {
        "create": lambda: put(folder, "new"),
        "replace": lambda: put(folder, "a", "Ed25519", "Ed25519"),
        "remove": lambda: folder.remove(("uid-1", "a")),
    }


@pytest.mark.parametrize("change", ["create", "replace", "remove"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("many", [1, 100])
def test_an_error_at_each_step_leaves_the_key_as_it_was_or_as_it_was_to_be(
    tmp_path: Path, change: str, late: bool, many: int
) -> None:
    """And the next change, once the disk is well, makes it what memory says."""
    steps = 0
    for step in range(1, 100):
        path = tmp_path / str(step)
        folder = made(path)
        put(folder, "a")
        before = after_a_crash(path, tmp_path / f"{step}-before")
        faults = failing(step, many=many, late=late, number=errno.ENOSPC)
        error: ServerError | None = None
        with faults.installed():
            try:
                changes(folder)[change]()
            except ServerError as caught:
                error = caught
                assert (error.code, "No space left" in error.message) == ("server.storage", True)
        crashed = after_a_crash(path, tmp_path / f"{step}-crashed")
        shape = {key: len(keys) for key, keys in spkis(crashed).items()}
        after = {"create": {"uid-1/a": 1, "uid-1/new": 1}, "replace": {"uid-1/a": 2}, "remove": {}}[change]
        assert crashed.broken == {}
        if error is None:
            assert shape == after, step
        else:
            assert shape in ({"uid-1/a": 1}, after), step
            assert folder.serial == before.serial
        if folder.trouble:
            folder.settle()
        if error is not None:
            settled = after_a_crash(path, tmp_path / f"{step}-settled")
            assert spkis(settled) == spkis(before), step
            put(folder, "b")
            folder.release()
            assert spkis(fresh(path)).keys() == {"uid-1/a", "uid-1/b"}
            assert spkis(fresh(path))["uid-1/a"] == spkis(before)["uid-1/a"]
            assert settled.broken == {}
        else:
            folder.release()
            assert {key: len(keys) for key, keys in spkis(fresh(path)).items()} == after
        assert not [one for one in path.iterdir() if one.name.endswith(".new")]
        if faults.made < step:
            steps = step
            break
    assert steps > 10


def test_a_read_only_disk_changes_nothing_and_keys_are_read(tmp_path: Path) -> None:
    folder = made(tmp_path)
    (key,) = put(folder, "a")
    with failing(1, many=1000, number=errno.EROFS).installed():
        for change in changes(folder).values():
            with pytest.raises(ServerError, match="Read-only file system"):
                change()
        folder.release()
        again = KeyFolder(tmp_path)
        (found,) = again.open(sealer()).keys
        assert public(found) == [key.spki]
        again.release()
    assert list(spkis(fresh(tmp_path))) == ["uid-1/a"]


def test_a_new_folder_that_can_not_be_written_is_not_used(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path)
    with failing(1, many=1000).installed(), pytest.raises(ServerError):
        folder.open(sealer())
    with pytest.raises(VerificationError):
        put(folder, "a")
    assert folder.open(sealer()).keys == []
    put(folder, "a")


# A disk that lies.


def test_a_file_under_another_name_is_not_taken(tmp_path: Path) -> None:
    """Swapped, renamed to another key or namespace, or renamed to the id that the index has."""
    folder = made(tmp_path)
    put(folder, "a")
    put(folder, "b")
    put(folder, "a", namespace="uid-2")
    folder.release()
    a, b = key_file(tmp_path, "a"), key_file(tmp_path, "b")
    (other,) = tmp_path.glob("uid-2@a@*.key")
    genuine = {one: one.read_bytes() for one in (a, b, other)}
    for one, two in ((a, b), (a, other)):
        one.write_bytes(genuine[two])
        two.write_bytes(genuine[one])
        contents = fresh(tmp_path)
        assert len(contents.keys) == 1
        assert sorted(contents.broken) == sorted(where.key for file in (one, two) if (where := place(file.name)))
        assert all("can't be unsealed" in why for why in contents.broken.values())
        for file, data in genuine.items():
            file.write_bytes(data)
    assert len(fresh(tmp_path).keys) == 3


def test_what_is_inside_must_be_what_the_name_says(tmp_path: Path) -> None:
    """A seal with the right labels over another key's content: only a defect could make one."""
    folder = made(tmp_path)
    put(folder, "a")
    folder.release()
    file = key_file(tmp_path, "a")
    where = place(file.name)
    assert where is not None
    key, other = PrivateKey(ALGORITHMS["Ed25519"]), PrivateKey(ALGORITHMS["Ed25519"])

    def plant(name: str, namespace: str, private: PrivateKey, serial: int) -> str:
        head = stored(name, [key], namespace).head().replace(b'"serial":0', b'"serial":%d' % serial)
        file.write_bytes(sealed(head, [private], partial(sealer().seal, PURPOSE, where.labels)))
        contents = fresh(tmp_path)
        return contents.broken.get(("uid-1", "a"), "")

    assert plant("a", "uid-1", key, 1) == ""
    assert "of the key uid-1/b" in plant("b", "uid-1", key, 1)
    assert "of the key uid-2/a" in plant("a", "uid-2", key, 1)
    assert "not that of its public key" in plant("a", "uid-1", other, 1)
    assert "newer than the index" in plant("a", "uid-1", key, 2)
    assert "serial" in plant("a", "uid-1", key, 0)


@pytest.mark.parametrize("damage", ["empty", "cut", "flip", "large", "fifo", "folder", "link", "missing"])
def test_a_broken_file_is_told_and_left_alone_and_others_work(tmp_path: Path, damage: str) -> None:
    folder = made(tmp_path / "keys")
    put(folder, "a")
    put(folder, "b")
    folder.release()
    file = key_file(folder.path, "a")
    data = file.read_bytes()
    file.unlink()
    if damage == "fifo":
        os.mkfifo(file)
    elif damage == "folder":
        file.mkdir()
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        file.symlink_to(tmp_path / "elsewhere")
    elif damage != "missing":
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        made_of = {"empty": b"", "cut": data[:-1], "flip": flipped, "large": data + b" " * 20_000}
        file.write_bytes(made_of[damage])
    for _ in range(2):
        contents = fresh(folder.path)
        assert [one.stored.name for one in contents.keys] == ["b"]
        assert list(contents.broken) == [("uid-1", "a")]
    assert file.is_symlink() or file.exists() or damage == "missing"
    folder = KeyFolder(folder.path)
    folder.open(sealer())
    put(folder, "c")
    folder.remove(("uid-1", "b"))
    folder.release()
    contents = fresh(folder.path)
    assert [one.stored.name for one in contents.keys] == ["c"]
    assert list(contents.broken) == [("uid-1", "a")]


def test_every_flipped_byte_of_a_file_breaks_it(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    folder.release()
    file = key_file(tmp_path, "a")
    data = file.read_bytes()
    where = place(file.name)
    assert where is not None
    for index in range(len(data)):
        changed = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        with pytest.raises((FormatError, VerificationError)):
            sealer().unseal(PURPOSE, where.labels, changed)


def test_what_was_destroyed_does_not_come_back_by_its_file(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    put(folder, "b")
    file = key_file(tmp_path, "a")
    data = file.read_bytes()
    folder.remove(("uid-1", "a"))
    folder.release()
    file.write_bytes(data)
    contents = fresh(tmp_path)
    assert (list(spkis(contents)), contents.removed) == (["uid-1/b"], 1)
    assert not file.exists()


def test_an_old_generation_does_not_come_back_by_its_file(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    old = key_file(tmp_path, "a")
    data = old.read_bytes()
    (newer,) = put(folder, "a")
    new = key_file(tmp_path, "a")
    folder.release()
    old.write_bytes(data)
    assert spkis(fresh(tmp_path)) == {"uid-1/a": [newer.spki]}
    kept = new.read_bytes()
    new.write_bytes(data)
    assert "can't be unsealed" in fresh(tmp_path).broken["uid-1", "a"]
    # Its only other copy is not removed, though it does not count: somebody may have meant well.
    new.unlink()
    old.write_bytes(data)
    contents = fresh(tmp_path)
    assert contents.broken == {("uid-1", "a"): "its file is missing"}
    assert "left alone" in contents.notes[0]
    assert old.exists()
    new.write_bytes(kept)
    assert spkis(fresh(tmp_path)) == {"uid-1/a": [newer.spki]}


@pytest.mark.parametrize("name", [INDEX, COPY])
@pytest.mark.parametrize("damage", ["missing", "cut", "old"])
def test_one_bad_copy_of_the_index_costs_nothing(tmp_path: Path, name: str, damage: str) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    old = (tmp_path / name).read_bytes()
    put(folder, "b")
    put(folder, "c")
    folder.remove(("uid-1", "a"))
    folder.release()
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(old if damage == "old" else old[:-9])
    contents = fresh(tmp_path)
    assert [one.stored.name for one in contents.keys] == ["b", "c"]
    assert len(contents.notes) == (damage == "cut")
    contents = fresh(tmp_path)
    assert (contents.notes, len(contents.keys)) == ([], 2)


@pytest.mark.parametrize("damage", ["missing", "cut", "another root"])
def test_without_an_index_nothing_is_believed_and_nothing_is_lost(tmp_path: Path, damage: str) -> None:
    folder = made(tmp_path / "keys")
    put(folder, "a")
    folder.release()
    shutil.copytree(folder.path, tmp_path / "backup")
    for name in (INDEX, COPY):
        if damage == "missing":
            (folder.path / name).unlink()
        elif damage == "cut":
            (folder.path / name).write_bytes((folder.path / name).read_bytes()[:-9])
    root = sealer(bytes(32)) if damage == "another root" else sealer()
    again = KeyFolder(folder.path)
    for _ in range(2):
        with pytest.raises(VerificationError, match="index of the keys can't be used") as caught:
            again.open(root)
        assert "nothing was deleted" in caught.value.hint
    if damage == "another root":
        assert sealer().root_id in caught.value.message
        assert root.root_id in caught.value.message
    assert again.names() == {("uid-1", "a")}
    with pytest.raises(VerificationError):
        put(again, "b")
    again.release()
    for name in (INDEX, COPY):
        shutil.copy(tmp_path / "backup" / name, folder.path / name)
    assert list(spkis(fresh(folder.path))) == ["uid-1/a"]


def test_a_broken_index_without_files_is_no_new_folder(tmp_path: Path) -> None:
    """It may list keys whose files are coming back."""
    folder = made(tmp_path)
    put(folder, "a")
    folder.release()
    key_file(tmp_path, "a").unlink()
    for name in (INDEX, COPY):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(VerificationError):
        fresh(tmp_path)
    assert (tmp_path / INDEX).read_bytes() == b"{}"


def test_an_index_that_was_put_back_is_found_by_the_files_that_it_does_not_know(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    old = (tmp_path / INDEX).read_bytes()
    put(folder, "b")
    put(folder, "c")
    folder.release()
    for name in (INDEX, COPY):
        (tmp_path / name).write_bytes(old)
    for _ in range(2):
        with pytest.raises(Rollback, match="older than uid-1@c@"):
            fresh(tmp_path)
    assert names(tmp_path) == [INDEX, COPY, "lock", "uid-1@a", "uid-1@b", "uid-1@c"]


def test_a_whole_folder_that_was_put_back_is_not_found_here(tmp_path: Path) -> None:
    """What docs/keys.md says can't be seen in the folder: there is no counter that the host does not hold."""
    folder = made(tmp_path / "keys")
    put(folder, "a")
    shutil.copytree(folder.path, tmp_path / "old")
    folder.remove(("uid-1", "a"))
    folder.release()
    (tmp_path / "old").chmod(0o700)
    contents = fresh(tmp_path / "old")
    assert list(spkis(contents)) == ["uid-1/a"]
    assert contents.serial < folder.serial


def test_foreign_files_are_told_and_left_alone(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    folder.release()
    foreign = ["README", "A@b@c.key", "x.new", Place("uid-1", "z", bytes(16)).file]
    for name in foreign:
        (tmp_path / name).write_bytes(b"{}")
    left = [f"uid-1@a@{'0' * 32}.key.new", "index.new", "index.copy.new"]
    for name in left:
        (tmp_path / name).write_bytes(b"half")
    contents = fresh(tmp_path)
    assert (list(spkis(contents)), len(contents.notes), contents.removed) == (["uid-1/a"], len(foreign), len(left))
    assert all((tmp_path / name).exists() for name in foreign)
    assert not any((tmp_path / name).exists() for name in left)


def test_what_can_not_be_removed_keeps_nothing_else_on_the_disk(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    folder.release()
    (tmp_path / "index.copy.new").touch()
    (tmp_path / "index.new").mkdir()
    left = tmp_path / f"uid-1@z@{'0' * 32}.key.new"
    left.touch()
    again = KeyFolder(tmp_path)
    again.open(sealer())
    assert again.trouble is not None
    assert not left.exists()
    (tmp_path / "index.new").rmdir()
    again.settle()
    again.remove(("uid-1", "a"))
    assert names(tmp_path) == [INDEX, COPY, "lock"]


def test_a_flood_of_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keydisk, "MAX_ENTRIES", 8)
    folder = made(tmp_path)
    folder.release()
    for number in range(9):
        (tmp_path / f"{number}").touch()
    with pytest.raises(Oversized):
        fresh(tmp_path)
    with pytest.raises(Oversized):
        KeyFolder(tmp_path).names()


def test_the_index_says_where_the_audit_log_was(tmp_path: Path) -> None:
    heads = [AuditHead(number, f"{number:064x}") for number in (7, 8)]
    folder = KeyFolder(tmp_path, iter([heads[0], None, heads[1]]).__next__)
    folder.open(sealer())
    seen: list[AuditHead | None] = [None]
    for name in ("a", "b", "c"):
        put(folder, name)
        seen.append(after_a_crash(tmp_path, tmp_path.parent / f"{tmp_path.name}-{name}").audit)
    assert seen == [None, heads[0], None, heads[1]]


class Trace:
    """What is done to the disk, in order: the step, and the file without its id."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            path = Path(f"/proc/self/fd/{args[0]}").readlink() if isinstance(args[0], int) else Path(args[0])
            self.seen.append(f"{name} {re.sub(r'@[0-9a-f]{32}', '', path.name)}")
            return real(*args, **kwargs)

        return step


def whole(name: str, folder: str) -> list[str]:
    """How a file gets its content."""
    return [f"write {name}.new", f"fsync {name}.new", f"rename {name}.new", f"fsync {folder}"]


def test_each_step_is_on_the_disk_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills keep what was written and not fsynced, so only the order shows that it would last."""
    folder = made(tmp_path / "keys")
    put(folder, "a")
    trace = Trace()
    for name in STEPS:
        monkeypatch.setattr(os, name, trace.wrap(name, getattr(os, name)))
    index = [*whole("index", "keys"), *whole("index.copy", "keys")]
    put(folder, "a")
    assert trace.seen == [*whole("uid-1@a.key", "keys"), *index, "unlink uid-1@a.key", "fsync keys"]
    trace.seen.clear()
    folder.remove(("uid-1", "a"))
    assert trace.seen == [*index, "unlink uid-1@a.key", "fsync keys"]
    trace.seen.clear()
    folder.remove(("uid-1", "a"))
    assert trace.seen == []


class Keeping:
    """A sealer that keeps what it gave."""

    def __init__(self) -> None:
        self.given: list[bytearray] = []

    def seal(self, purpose: str, labels: tuple[str, ...], plaintext: bytes | bytearray) -> bytes:
        return sealer().seal(purpose, labels, plaintext)

    def unseal(self, purpose: str, labels: tuple[str, ...], blob: bytes) -> bytearray:
        self.given.append(sealer().unseal(purpose, labels, blob))
        return self.given[-1]


def test_what_was_unsealed_is_wiped(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    put(folder, "b", "ECDSA-P384")
    folder.release()
    keeping = Keeping()
    again = KeyFolder(tmp_path)
    assert len(again.open(keeping).keys) == 2
    again.release()
    secrets = [plain for plain in keeping.given if not plain.startswith(b"{")]
    assert len(secrets) == 2
    assert not any(any(plain) for plain in secrets)
