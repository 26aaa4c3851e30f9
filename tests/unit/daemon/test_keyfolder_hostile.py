"""The folder of persistent keys on a disk that lies: what a hostile one can't pass off, and what is told."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from agent.core.algorithm import ALGORITHMS
from agent.core.errors import (
    FormatError,
    Rollback,
    VerificationError,
)
from agent.daemon.keyfile import COPY, INDEX, place
from agent.daemon.keyfolder import KeyFolder
from agent.daemon.keyreading import PURPOSE
from agent.daemon.privatekey import PrivateKey, sealed
from tests.support.keyfolders import (
    fresh,
    key_file,
    made,
    names,
    put,
    sealer,
    spkis,
    stored,
)


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
