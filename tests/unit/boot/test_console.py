"""The prompt at a real terminal: no echo, bounded, and the terminal is left as it was."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.boot.console import MAX_PASSPHRASE, ask
from agent.core.errors import DeadlineExceeded, PlatformError
from agent.deadline import Deadline


@pytest.fixture
def terminal() -> Iterator[tuple[int, Path]]:
    """The other end, and the path of the terminal."""
    master, slave = os.openpty()
    yield master, Path(os.ttyname(slave))
    os.close(master)
    os.close(slave)


def typing(master: int, line: bytes) -> None:
    """Type once the question is there: what was typed before is dropped."""
    while b": " not in os.read(master, 4096).rpartition(b"type")[2]:
        pass
    os.write(master, line)


def asked(terminal: tuple[int, Path], line: bytes) -> bytes:
    from threading import Thread

    master, path = terminal
    typist = Thread(target=typing, args=(master, line), daemon=True)
    typist.start()
    with ask("Passphrase of root\x1b[1m", Deadline(20, "typing"), path) as typed:
        typist.join()
        return bytes(typed.reveal()) if len(typed) else b""


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        (b"secret\n", b"secret"),
        (b"sec\x7f\x7f\x7fret\n", b"ret"),
        (b"\n", b""),
        ("geheim ä\n".encode(), "geheim ä".encode()),
    ],
)
def test_a_line(terminal: tuple[int, Path], line: bytes, typed: bytes) -> None:
    assert asked(terminal, line) == typed


def test_nothing_is_echoed_and_the_terminal_is_put_back(terminal: tuple[int, Path]) -> None:
    master, path = terminal
    with path.open("rb") as file:
        before = termios.tcgetattr(file.fileno())
        assert asked(terminal, b"secret\n") == b"secret"
        assert termios.tcgetattr(file.fileno()) == before
    assert os.read(master, 4096) == b"\r\n"


def test_nobody_there(terminal: tuple[int, Path]) -> None:
    with pytest.raises(DeadlineExceeded, match="typing"):
        ask("Passphrase", Deadline(0.1, "typing"), terminal[1])


def test_no_console(tmp_path: Path) -> None:
    with pytest.raises(PlatformError) as caught:
        ask("Passphrase", Deadline(1, "typing"), tmp_path / "console")
    assert caught.value.code == "platform.console"


def test_a_console_that_is_no_terminal(tmp_path: Path) -> None:
    console = tmp_path / "console"
    console.write_bytes(b"x" * (4 * MAX_PASSPHRASE))
    with ask("Passphrase", Deadline(5, "typing"), console) as typed:
        assert len(typed) <= MAX_PASSPHRASE
