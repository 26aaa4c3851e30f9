"""The folder of persistent keys on a disk that fails: a key is as it was, or as it was to be."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.errors import (
    ServerError,
    VerificationError,
)
from agent.daemon.keyfolder import KeyFolder
from tests.support.keyfolders import (
    after_a_crash,
    failing,
    fresh,
    made,
    public,
    put,
    sealer,
    spkis,
)


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
