"""Sockets, users, problems, the fetcher's watch, notifications: each by itself."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import threading
from pathlib import Path

import pytest

from agent.core import errors
from agent.core.daemonconfig import DaemonConfig
from agent.core.errors import (
    ConfigError,
    Conflict,
    FirmwareError,
    FormatError,
    ServerError,
    TeeAgentError,
    TransportError,
)
from agent.core.model import Nonce
from agent.core.ports import Deadline
from agent.daemon import fetcher, privileges, problem, sockets
from agent.daemon.fetcher import Watch
from agent.daemon.notify import watchdog_seconds
from agent.daemon.state import State, state_from
from agent.daemon.threads import in_thread

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, TeeAgentError)]


def test_one_owner_per_socket(tmp_path: Path) -> None:
    first = sockets.listen(tmp_path, "a")
    with first.sock:
        with pytest.raises(Conflict) as caught:
            sockets.listen(tmp_path, "a")
        assert caught.value.exit_status == 73
        sockets.remove(tmp_path, "a")
        assert first.path.is_socket()
        assert first.path.stat().st_mode & 0o777 == 0o666
    os.close(first.lock)
    second = sockets.listen(tmp_path, "a")
    second.sock.close()
    os.close(second.lock)
    sockets.remove(tmp_path, "a")
    assert not first.path.exists()


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    for make in (Path.touch, Path.mkdir, lambda path: path.symlink_to("/etc/hostname")):
        make(tmp_path / "a.sock")
        with pytest.raises(Conflict):
            sockets.listen(tmp_path, "a")
        sockets.remove(tmp_path, "a")
        path = tmp_path / "a.sock"
        assert path.is_symlink() or path.exists()
        (Path.rmdir if path.is_dir() and not path.is_symlink() else Path.unlink)(path)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(TeeAgentError):
        sockets.listen(tmp_path, "a")
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777, 0o722])
def test_a_folder_that_others_may_write(tmp_path: Path, mode: int) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    with pytest.raises(ConfigError):
        sockets.prepare(tmp_path / "run")


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        sockets.listen(tmp_path / ("x" * 100), "a")


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError):
        sockets.prepare(tmp_path / "run")


def test_users() -> None:
    assert privileges.find_user("root", "signer_user") == privileges.User(0, 0)
    assert privileges.unprivileged("64999", "signer_user") == privileges.User(64999, 64999)
    for refused in ("root", "0", "no-such-user-here"):
        with pytest.raises(ConfigError, match="signer_user"):
            privileges.unprivileged(refused, "signer_user")


def test_allowed_names() -> None:
    config = DaemonConfig(
        allow_users=("root", "64998", "no-such-user"), allow_groups=("root", "64997", "no-such-group")
    )
    allowed, unknown = privileges.allowed(config)
    assert allowed.uids == {0, 64998}
    assert allowed.gids == {0, 64997}
    assert unknown == ("no-such-user", "no-such-group")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_survives_the_wire(kind: type[TeeAgentError]) -> None:
    error = kind("what", hint="do", code=kind.code + ".narrower")
    for said in (problem.document(error), problem.problem(error)):
        back = problem.exception(said)
        assert (type(back), back.code, back.message, back.hint) == (kind, error.code, "what", "do")
    assert 400 <= problem.status_of(error) <= 599


def test_unknown_codes_become_the_nearest_class() -> None:
    assert type(problem.exception({"code": "firmware.new.kind", "message": "m"})) is FirmwareError
    assert type(problem.exception({"code": "not-ours"})) is TeeAgentError
    assert type(problem.exception({})) is TeeAgentError
    assert type(problem.exception({"code": 7, "message": [], "hint": None})) is TeeAgentError


def test_retry_after() -> None:
    assert problem.retry_after(ServerError("x", retry_after=2.6)) == 3
    assert problem.retry_after(ServerError("x", retry_after=0.2)) == 1
    assert problem.retry_after(TransportError("x")) == 1
    assert problem.retry_after(FormatError("x")) == 0
    back = problem.exception({"code": "server.budget", "message": "m"}, 7)
    assert isinstance(back, ServerError)
    assert back.retry_after == 7


NONCE = Nonce("ab" * 32)


def watch(
    answers: list[tuple[str, Nonce] | TeeAgentError], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[State], list[float]]:
    """States and pauses of a watch that gets these answers."""
    states: list[State] = []
    pauses: list[float] = []
    left = list(answers)

    def check(_deadline: Deadline) -> tuple[str, Nonce]:
        answer = left.pop(0)
        if isinstance(answer, TeeAgentError):
            raise answer
        return answer

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if not left:
            raise asyncio.CancelledError

    monkeypatch.setattr("agent.daemon.fetcher.asyncio.sleep", pause)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Watch("https://tas", check).run(states.append))
    return states, pauses


def test_the_watch_keeps_the_newest_nonce_through_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = TransportError("gone\nwith the wind", code="transport.refused")
    states, pauses = watch([("1", NONCE), gone, gone, gone, ("2", NONCE)], monkeypatch)
    assert [state.state for state in states] == ["reachable", "unreachable", "unreachable", "unreachable", "reachable"]
    assert {state.nonce for state in states} == {NONCE.text}
    assert (states[1].reason, states[1].code, states[1].version) == ("gone with the wind", "transport.refused", "1")
    assert (states[4].reason, states[4].code, states[4].version) == ("", "", "2")
    middle = [fetcher.INTERVAL_SECONDS, *(fetcher.RETRY_SECONDS * 2**n for n in range(3)), fetcher.INTERVAL_SECONDS]
    assert all(0.8 * want <= got <= 1.2 * want for want, got in zip(middle, pauses, strict=True))
    assert len(set(pauses)) == len(pauses)


def test_failures_never_pause_longer_than_success(monkeypatch: pytest.MonkeyPatch) -> None:
    _, pauses = watch([TransportError("gone")] * 30, monkeypatch)
    assert max(pauses) <= fetcher.INTERVAL_SECONDS * 1.2


def test_nothing_to_watch() -> None:
    nobody = Watch("", None)
    asyncio.run(nobody.run(lambda _: None))
    assert nobody.state.state == "not-configured"


def test_state_both_ways() -> None:
    state = State("reachable", "https://tas", "1", NONCE.text)
    assert state_from(state.document()) == state
    for broken in ({}, {**state.document(), "more": ""}, {**state.document(), "nonce": 7}):
        with pytest.raises(FormatError):
            state_from(broken)


def test_watchdog_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    for usec, pid, seconds in [
        ("", "", 0.0),
        ("2000000", "", 1.0),
        ("2000000", str(os.getpid()), 1.0),
        ("2000000", "1", 0.0),
        ("x", "", 0.0),
    ]:
        monkeypatch.setenv("WATCHDOG_USEC", usec)
        monkeypatch.setenv("WATCHDOG_PID", pid)
        assert watchdog_seconds() == seconds


def test_a_thread_that_never_ends_holds_up_nobody() -> None:
    never = threading.Event()

    async def main() -> None:
        task = asyncio.create_task(in_thread(never.wait))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(main())  # returns, though nobody set the event
    never.set()


def test_threads_give_values_and_errors() -> None:
    def fails() -> None:
        raise FormatError("no")

    async def main() -> None:
        assert await in_thread(lambda: 7) == 7
        with pytest.raises(FormatError, match="no"):
            await in_thread(fails)

    asyncio.run(main())


def test_a_defect_in_a_thread_is_an_error_for_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: printed.set())

    async def main() -> None:
        with pytest.raises(TeeAgentError, match="defect"):
            await in_thread(lambda: 1 // 0)

    asyncio.run(main())
    assert printed.wait(20)


def test_a_socket_of_another_kind_does_not_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "a.sock"))
        listener = sockets.listen(tmp_path, "a")
    listener.sock.close()
    os.close(listener.lock)
