"""What commands share: where their output goes, and how a wrong nonce, file or word is told."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from agent import cli, commandio
from agent.admin import files
from agent.core.errors import SecretRefused, UsageError
from agent.daemon import problem

NULL = (1, 3)
"""Device number of /dev/null."""


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def fill(kind: str, path: Path, data: bytes) -> None:
    """Either way to write a file: of commands that ask the agent, and of those that make policies and evidence."""
    if kind == "output":
        commandio.write(data, str(path))
    else:
        files.replace(path, data, 0o640)


@pytest.mark.parametrize("kind", ["output", "replace"])
def test_a_file_is_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"older and longer")
    before = path.stat().st_ino
    fill(kind, path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != before
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["output", "replace"])
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_device_stays_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "null"
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(*NULL))
    fill(kind, path, b"gone")
    found = path.lstat()
    assert stat.S_ISCHR(found.st_mode)
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == NULL
    assert names(tmp_path) == ["null"]


@pytest.mark.parametrize("kind", ["output", "replace"])
def test_a_pipe_is_written_to(tmp_path: Path, kind: str) -> None:
    path, got = tmp_path / "pipe", list[bytes]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    fill(kind, path, b"through")
    reader.join(30)
    assert got == [b"through"]
    assert path.is_fifo()


def test_a_reader_that_left_is_no_wrong_name(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def read_a_little() -> None:
        with path.open("rb", buffering=0) as pipe:
            pipe.read(1)

    reader = threading.Thread(target=read_a_little, daemon=True)
    reader.start()
    with pytest.raises(BrokenPipeError):
        commandio.write(bytes(1 << 20), str(path))
    reader.join(30)


@pytest.mark.parametrize("kind", ["output", "replace"])
def test_our_own_output_by_its_name(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/stdout is a link to the file behind it: the link stays, and what stands in the file."""
    log, name, real = tmp_path / "log", tmp_path / "stdout", os.fstat
    log.write_bytes(b"before\n")
    name.symlink_to(log)
    monkeypatch.setattr(os, "fstat", lambda fd: log.stat() if fd == 1 else real(fd))
    fill(kind, name, b"after\n")
    assert log.read_bytes() == b"before\nafter\n"
    assert name.is_symlink()


@pytest.mark.parametrize("kind", ["output", "replace"])
def test_where_nothing_can_be_written(tmp_path: Path, kind: str) -> None:
    for path in (tmp_path, tmp_path / "none" / "out"):
        with pytest.raises(UsageError) as caught:
            fill(kind, path, b"x")
        assert caught.value.code == "usage.output"
    assert names(tmp_path) == []


@pytest.mark.parametrize(("text", "said"), [("zz", "in hex"), ("0", "in hex"), ("00", "16 to 64 bytes, not 1")])
def test_a_wrong_nonce_is_told_in_our_words(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        commandio.nonce_hex(text, "NONCE")
    assert "fromhex" not in caught.value.message


def test_the_service_s_no_is_a_no() -> None:
    """To the daemon's callers a failure of what stands behind it, to who runs the command 77, as the manual says."""
    error = problem.exception({"code": "secret.refused", "detail": "not released", "hint": ""}, 0)
    assert (type(error), error.exit_status, problem.status_of(error)) == (SecretRefused, 77, 502)


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"],
        ["keys"],
        ["keys", "frobnicate"],
        ["keys", "create", "x"],
        ["keys", "create", "x", "--use", "raw", "--lifetime", "long"],
        ["status", "--socket", "x"],
        ["status", "--config"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_an_error_like_others(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 64
    said = capsys.readouterr()
    first, hint, code = said.err.splitlines()
    assert first.startswith("tee-agent: ")
    assert hint.startswith("  see tee-agent ")
    assert hint.endswith(" --help")
    assert (code, said.out) == ("  [usage]", "")
    assert cli.main([words[0], "--json", *words[1:]]) == 64
    said = capsys.readouterr()
    error = json.loads(said.out)["error"]
    assert (error["code"], said.err) == ("usage", "")
    assert error["hint"].startswith("see tee-agent ")


@pytest.mark.parametrize(
    "words",
    [
        ["sign", "f", "--detached"],
        ["sign", "f", "--content-type", "text/plain"],
        ["sign", "f", "--form", "cbor"],
        ["sign", "f", "--key", "k", "--form", "json"],
        ["sign", "f", "--into", "/nowhere"],
        ["secret", "--list", "-o", "names"],
        ["secret"],
    ],
    ids=" ".join,
)
def test_an_option_that_means_nothing_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--socket", "/nowhere/agent.sock"]) == 64, "before anybody is asked"
    assert "[usage" in capsys.readouterr().err
