"""Sockets and credentials that a service manager hands over, and its sockets against a daemon started by hand."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from agent.core.config import TasConfig
from agent.core.errors import ConfigError, Conflict, PermissionMissing
from agent.daemon import activation, fetcher, sockets


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listening socket at tmp_path/a.sock, with a copy handed over as the first descriptor."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(tmp_path / "a.sock"))
        sock.listen(8)
        hand_over(monkeypatch, sock)
        yield sock


def hand_over(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, *, count: str = "1", pid: int | None = None
) -> None:
    monkeypatch.setattr(activation, "FIRST", os.dup(sock.fileno()))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() if pid is None else pid))
    monkeypatch.setenv("LISTEN_FDS", count)
    monkeypatch.setenv("LISTEN_FDNAMES", "a.socket")


def test_the_socket_is_taken_once_and_children_see_nothing_of_it(manager: socket.socket, tmp_path: Path) -> None:
    listener = sockets.listen(tmp_path, "a")
    with listener.sock:
        assert listener.lock == -1
        assert listener.sock.getsockname() == str(tmp_path / "a.sock")
        assert not listener.sock.get_inheritable()
        assert not {name for name in os.environ if name.startswith("LISTEN_")}
        assert activation.take(tmp_path / "a.sock") == {}
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(tmp_path / "a.sock"))
            listener.sock.accept()[0].close()
    assert not (tmp_path / "a.lock").exists()


def test_what_was_meant_for_another_process_is_not_ours(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.close(activation.FIRST)
    hand_over(monkeypatch, manager, pid=1)
    assert activation.take(tmp_path / "a.sock") == {}
    os.close(activation.FIRST)


@pytest.mark.parametrize("count", ["", "0", "2", "one"])
def test_one_socket_and_no_other_number(
    count: str, manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(ConfigError, match="instead of one"):
        activation.take(tmp_path / "a.sock")
    os.close(activation.FIRST)


def test_a_socket_of_another_place_is_refused(manager: socket.socket, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"b\.sock"):
        activation.take(tmp_path / "b.sock")


def test_a_socket_that_does_not_listen_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(tmp_path / "a.sock"))
        hand_over(monkeypatch, sock)
        with pytest.raises(ConfigError):
            activation.take(tmp_path / "a.sock")


def test_a_socket_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        hand_over(monkeypatch, sock)
        with pytest.raises(ConfigError):
            activation.take(tmp_path / "a.sock")


def test_a_file_is_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "file").open("wb") as file:
        monkeypatch.setattr(activation, "FIRST", os.dup(file.fileno()))
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "1")
        with pytest.raises(ConfigError, match="no socket"):
            activation.take(tmp_path / "a.sock")
        os.close(activation.FIRST)


def test_a_descriptor_that_is_not_open_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        hand_over(monkeypatch, sock)
    os.close(activation.FIRST)
    with pytest.raises(ConfigError, match="no socket: Bad file descriptor"):
        activation.take(tmp_path / "a.sock")


def test_a_daemon_by_hand_leaves_the_manager_s_socket_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(tmp_path / "a.sock"))
        sock.listen(0)
        with pytest.raises(Conflict):
            sockets.listen(tmp_path, "a")
        sockets.remove(tmp_path, "a")
        # By now its queue is full: somebody's all the same.
        with pytest.raises(Conflict):
            sockets.listen(tmp_path, "a")
        assert (tmp_path / "a.sock").is_socket()
    listener = sockets.listen(tmp_path, "a")
    with closing(listener.sock):
        os.close(listener.lock)


def tas(path: Path) -> TasConfig:
    return TasConfig("https://tas.example", (), path)


def test_the_unit_s_copy_of_the_key_where_the_file_can_t_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "tas-api-key"
    missing = tas(tmp_path / "missing")
    assert fetcher.with_credential(missing) == missing
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert fetcher.with_credential(missing) == missing
    given.write_text("\n")
    assert fetcher.with_credential(missing) == missing
    given.write_text("key\n")
    assert fetcher.with_credential(missing) == tas(given)
    (tmp_path / "readable").touch()
    assert fetcher.with_credential(tas(tmp_path / "readable")) == tas(tmp_path / "readable")


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Hands over sockets that listen at tmp_path/NAME.sock, in this order."""
    opened: list[socket.socket] = []

    def hand(*names: str) -> None:
        monkeypatch.setattr(activation, "FIRST", 300)
        for number, name in enumerate(names, 300):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            opened.append(sock)
            path = tmp_path / f"{name}.sock"
            path.unlink(missing_ok=True)
            sock.bind(str(path))
            sock.listen(8)
            os.dup2(sock.fileno(), number)
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", str(len(names)))

    yield hand
    for sock in opened:
        sock.close()


@pytest.mark.parametrize("names", [("agent", "ssh"), ("ssh", "agent")])
@pytest.mark.parametrize("wanted", [True, False])
def test_two_sockets_in_any_order(
    both: Callable[..., None], tmp_path: Path, names: tuple[str, str], wanted: bool
) -> None:
    both(*names)
    first, second = sockets.listen_with(tmp_path, "agent", "ssh", wanted=wanted)
    assert second
    with first.sock, second.sock:
        assert first.sock.getsockname() == str(tmp_path / "agent.sock")
        assert second.sock.getsockname() == str(tmp_path / "ssh.sock")
        assert (first.lock, second.lock) == (-1, -1)
        assert not first.sock.get_inheritable()
        assert not second.sock.get_inheritable()


def test_the_second_is_made_where_it_is_wanted_only(both: Callable[..., None], tmp_path: Path) -> None:
    both("agent")
    first, second = sockets.listen_with(tmp_path, "agent", "ssh", wanted=False)
    assert second is None
    first.sock.close()
    assert not (tmp_path / "ssh.sock").exists()
    both("agent")
    first, second = sockets.listen_with(tmp_path, "agent", "ssh", wanted=True)
    assert second
    with first.sock, second.sock:
        assert second.lock >= 0
        assert (tmp_path / "ssh.sock").stat().st_mode & 0o777 == 0o666
    os.close(second.lock)


@pytest.mark.parametrize("names", [("ssh",), ("agent", "other"), ("agent", "agent"), ("agent", "ssh", "other")])
def test_sockets_that_are_not_the_signer_s(both: Callable[..., None], tmp_path: Path, names: tuple[str, ...]) -> None:
    both(*names)
    with pytest.raises(ConfigError):
        sockets.listen_with(tmp_path, "agent", "ssh", wanted=True)
    for number in range(300, 300 + len(names)):
        with suppress(OSError):
            os.close(number)


def test_a_socket_that_the_signer_can_t_make_names_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under the units, where its user can't write to the folder, with ssh_socket and without that unit."""

    def refused(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(PermissionMissing, match=r"ssh\.lock: Permission denied") as caught:
        sockets.listen(tmp_path, "ssh")
    assert "by the units: that for ssh.sock must be enabled" in caught.value.hint
