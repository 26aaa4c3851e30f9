"""Files that must last: what stands in their place, what a failing disk leaves, and who holds a folder."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from agent.core.errors import Conflict, FormatError, Oversized
from agent.daemon import files
from agent.daemon.files import FolderLock


def lock(folder: Path) -> FolderLock:
    return FolderLock(folder / "lock", "has it", "[x] folder")


def test_a_lock_is_one_process_s_until_it_lets_go(tmp_path: Path) -> None:
    one, two = lock(tmp_path), lock(tmp_path)
    one.take()
    one.take()
    with pytest.raises(Conflict) as caught:
        two.take()
    assert (caught.value.code, caught.value.message) == ("conflict.running", f"{tmp_path}: another process has it")
    assert caught.value.hint == "stop the other daemon, or give it another [x] folder"
    one.release()
    one.release()
    two.take()
    two.release()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EAGAIN])
def test_a_lock_that_is_not_had_leaves_no_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(fd: int, _: int) -> None:
        seen.append(fd)
        raise OSError(number, os.strerror(number))

    seen: list[int] = []
    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(Conflict if number == errno.EAGAIN else OSError):
        lock(tmp_path).take()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(seen[0])


def test_a_link_or_a_fifo_in_the_lock_s_place(tmp_path: Path) -> None:
    """The first is not followed. The second locks as well as a file, and nobody waits for it."""
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        lock(tmp_path).take()
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "lock").unlink()
    os.mkfifo(tmp_path / "lock")
    one = lock(tmp_path)
    one.take()
    with pytest.raises(Conflict):
        lock(tmp_path).take()
    one.release()


def test_only_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    file, fifo = tmp_path / "file", tmp_path / "fifo"
    file.write_bytes(b"x" * 200_000)
    assert files.read(file, 200_000) == b"x" * 200_000
    with pytest.raises(Oversized):
        files.read(file, 199_999)
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, Path("/dev/zero")):
        with pytest.raises(FormatError, match="not a regular file"):
            files.read(path, 10)
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(OSError, match="symbolic"):
        files.read(tmp_path / "link", 10)


def test_a_new_file_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path, other = tmp_path / "new", tmp_path / "other"
    other.write_bytes(b"kept")
    path.hardlink_to(other)
    files.write_new(path, b"one")
    assert (path.read_bytes(), other.read_bytes()) == (b"one", b"kept")
    path.chmod(0o666)
    files.write_new(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o600)
    path.unlink()
    path.symlink_to(other)
    files.write_new(path, b"three")
    assert (path.read_bytes(), path.is_symlink(), other.read_bytes()) == (b"three", False, b"kept")
    path.unlink()
    os.mkfifo(path)
    files.write_new(path, b"four")
    assert path.read_bytes() == b"four"


def test_a_folder_is_made_as_it_is_to_be_or_left_as_it_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.prepare(tmp_path / "new", os.geteuid(), os.getegid(), 0o750)
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o750
    files.prepare(tmp_path / "new", os.geteuid(), os.getegid(), 0o700)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o750
    files.prepare(tmp_path / "no" / "new", os.geteuid(), os.getegid(), 0o700)
