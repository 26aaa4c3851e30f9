"""The folder of persistent keys with what does not belong there: foreign files, too many, and a process without room."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import Conflict, Oversized, ServerError, VerificationError
from agent.daemon import keydisk, keyfolder, keyreading
from agent.daemon.keyfile import COPY, INDEX, Place
from agent.daemon.keyfolder import KeyFolder
from tests.support.keyfolders import (
    failing,
    fresh,
    key_file,
    made,
    names,
    put,
    sealer,
    spkis,
)


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


def test_foreign_files_are_named_in_part(tmp_path: Path) -> None:
    made(tmp_path).release()
    for number in range(1000):
        (tmp_path / Place("uid-1", f"z{number}", bytes(16)).file).touch()
        (tmp_path / f"foreign-{number}").touch()
    contents = fresh(tmp_path)
    assert len(contents.notes) == keyreading.MAX_NOTES + 1
    assert contents.notes[-1] == f"and {2000 - keyreading.MAX_NOTES} more"


@pytest.mark.parametrize("left", ["fifo", "open to all", "another name of a file", "folder"])
def test_what_stands_where_a_file_is_to_be_written_is_replaced(tmp_path: Path, left: str) -> None:
    """After the start, which removes what a kill left."""
    folder = made(tmp_path / "keys")
    new, other = folder.path / "index.new", tmp_path / "other"
    if left == "fifo":
        os.mkfifo(new)
    elif left == "folder":
        new.mkdir()
    elif left == "open to all":
        new.touch()
        new.chmod(0o666)
    else:
        other.write_bytes(b"kept")
        new.hardlink_to(other)
    if left == "folder":
        with pytest.raises(ServerError):
            put(folder, "a")
        new.rmdir()
    put(folder, "b")
    folder.release()
    assert (folder.path / INDEX).stat().st_mode & 0o777 == 0o600
    assert list(spkis(fresh(folder.path))) == ["uid-1/b"]
    assert left != "another name of a file" or other.read_bytes() == b"kept"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize("name", ["index", "uid-1@a@", "uid-1@z@"])
def test_a_process_without_room_breaks_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    """Files that can't be opened for a while are not damaged: it is an error that passes."""
    folder = made(tmp_path)
    put(folder, "a")
    folder.release()
    shutil.copy(key_file(tmp_path, "a"), tmp_path / Place("uid-1", "z", bytes(16)).file)
    before = sorted(one.name for one in tmp_path.iterdir())
    real = os.open

    def opened(path: Any, *args: Any) -> int:
        if Path(path).name.startswith(name):
            raise OSError(number, os.strerror(number))
        return real(path, *args)

    again = KeyFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        with pytest.raises(ServerError) as caught:
            again.open(sealer())
    assert caught.value.code == "server.storage"
    assert sorted(one.name for one in tmp_path.iterdir()) == before
    assert again.open(sealer()).broken == {}
    again.release()


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_key_that_only_the_damaged_index_knows_is_not_removed(tmp_path: Path, damage: str) -> None:
    """The copy could not be written, the key was answered for, and then the index went bad."""
    folder = made(tmp_path)
    put(folder, "a")
    # The key's file and the index: four steps each. All that follows fails.
    with failing(9, many=100).installed():
        put(folder, "b")
    folder.release()
    index = (tmp_path / INDEX).read_bytes()
    (tmp_path / INDEX).unlink()
    if damage == "cut":
        (tmp_path / INDEX).write_bytes(index[:-9])
    for _ in range(2):
        with pytest.raises(VerificationError, match=r"index: .* may not know uid-1@b@") as caught:
            fresh(tmp_path)
        assert "move that file away" in caught.value.hint
    away = tmp_path.parent / f"{tmp_path.name}-away"
    file = key_file(tmp_path, "b")
    file.rename(away)
    (tmp_path / INDEX).write_bytes(index)
    away.rename(file)
    assert sorted(spkis(fresh(tmp_path))) == ["uid-1/a", "uid-1/b"]


def test_no_index_is_written_that_could_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfolder, "MAX_KEYS", 2)
    folder = made(tmp_path)
    put(folder, "a")
    put(folder, "b")
    with pytest.raises(Conflict) as caught:
        put(folder, "c")
    assert caught.value.code == "conflict.limit"
    put(folder, "b", "Ed25519", "Ed25519")
    folder.remove(("uid-1", "a"))
    put(folder, "c")
    folder.release()
    assert sorted(spkis(fresh(tmp_path))) == ["uid-1/b", "uid-1/c"]


def test_keys_on_a_disk_that_became_read_only_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing opens for writing there, not even the lock; which holds all the same."""
    folder = made(tmp_path)
    put(folder, "a")
    folder.release()
    real = os.open

    def opened(path: Any, flags: int, *args: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *args)

    again = KeyFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        assert list(spkis(again.open(sealer()))) == ["uid-1/a"]
        with pytest.raises(ServerError, match="Read-only"):
            put(again, "b")
    with pytest.raises(Conflict):
        KeyFolder(tmp_path).lock()
    again.release()
