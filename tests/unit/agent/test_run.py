"""The door to other programs: environment, secrets, bounds, deadline, nothing left behind."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import DeadlineExceeded, Oversized, PlatformError, UsageError
from agent.core.model import Secret
from agent.deadline import Deadline
from agent.run import ENVIRONMENT, Completed, run, spawn

ROOT = Path(__file__).resolve().parents[3]


def soon(seconds: float = 60.0) -> Deadline:
    return Deadline(seconds, "test")


def sh(script: str, **how: Any) -> Completed:
    return run(["/bin/sh", "-c", script], deadline=soon(), **how)


def test_status_and_outputs() -> None:
    done = sh("echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert done.argv[0] == "/bin/sh"


def test_signals_are_negative() -> None:
    assert sh("kill -9 $$").returncode == -9


DEAF = """
import signal, sys, threading
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as whoever started us may have left it: exec passes it on
from agent.core.errors import PlatformError
from agent.deadline import Deadline
from agent.run import run

def ask():
    try:
        print(run(["/bin/sh", "-c", "sleep 0.1; exit 7"], deadline=Deadline(60, "test")).returncode)
    except PlatformError as error:
        print(error.code)

if sys.argv[1] == "thread":
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
ask()
"""
"""The program outlives the moment in which it is started, so that only its end is missed."""


@pytest.mark.parametrize(("where", "said"), [("main", "7\n"), ("thread", "platform.signals\n7\n")])
def test_a_failure_is_none_the_less_one_where_sigchld_was_ignored(where: str, said: str) -> None:
    """Its exit status would be lost, and 0 in its place: cryptsetup would never fail."""
    done = subprocess.run(
        [sys.executable, "-c", DEAF, where], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == said


def test_the_environment_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEE_SECRET", "x")
    monkeypatch.setenv("LD_PRELOAD", "/nonexistent.so")
    done = run(["/usr/bin/env"], deadline=soon())
    assert dict(line.split("=", 1) for line in done.stdout.decode().splitlines()) == ENVIRONMENT


@pytest.mark.parametrize("secret", [Secret(b"s" * 300_000), b"s" * 300_000], ids=["Secret", "bytes"])
def test_stdin(secret: Secret | bytes) -> None:
    assert sh("wc -c", stdin=secret).stdout.strip() == b"300000"


def test_a_secret_is_left_as_it_was() -> None:
    secret = Secret(b"0123456789" * 30_000)
    sh("cat >/dev/null", stdin=secret)
    assert bytes(secret.reveal()) == b"0123456789" * 30_000
    secret.reveal().append(1)  # no view of it is left


def test_a_secret_is_free_again_after_a_failure() -> None:
    secret = Secret(b"0123456789" * 30_000)
    with pytest.raises(DeadlineExceeded) as caught:
        run(["sleep", "99"], stdin=secret, deadline=soon(0.2))
    secret.reveal().append(1)  # although the error still holds the frames
    assert "0123456789" not in str(caught.value)


def test_stdin_is_empty_without_one() -> None:
    assert sh("wc -c").stdout.strip() == b"0"


def test_a_program_that_does_not_read_its_input() -> None:
    assert sh("exit 0", stdin=b"x" * 1_000_000).returncode == 0
    assert sh("exec <&-; echo done", stdin=b"x" * 1_000_000).stdout == b"done\n"


def test_input_and_output_at_once() -> None:
    data = os.urandom(700_000)
    assert sh("cat", stdin=data).stdout == data


def test_passed_descriptors_and_no_others(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+b") as given, (tmp_path / "g").open("wb") as other:
        os.set_inheritable(other.fileno(), True)
        done = run(["/bin/ls", "/proc/self/fd"], deadline=soon(), pass_fds=(given.fileno(),))
        assert str(given.fileno()).encode() in done.stdout.split()
        assert str(other.fileno()).encode() not in done.stdout.split()


def test_output_is_bounded() -> None:
    assert len(sh("head -c 1000 /dev/zero", max_output=1000).stdout) == 1000
    for stream in (">&1", ">&2"):
        with pytest.raises(Oversized):
            sh(f"head -c 1001 /dev/zero {stream}", max_output=1000)
    with pytest.raises(Oversized):
        sh("yes")


def test_the_deadline_kills_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(DeadlineExceeded, match="sh -c"):
        run(["/bin/sh", "-c", f"sleep 999 & echo $$ $! >{pids}; wait"], deadline=soon(3))
    for pid in pids.read_text().split():
        assert _gone(int(pid))


def test_a_successful_program_leaves_no_children_and_no_open_pipe(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    done = sh(f"sleep 999 & echo $! >{pids}; echo done")
    assert done.stdout == b"done\n"
    assert _gone(int(pids.read_text()))


def _gone(pid: int) -> bool:
    """No process, or only the husk of one, once its end has been delivered."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        return error.errno == errno.ESRCH
    import select

    try:
        return bool(select.select([fd], [], [], 30)[0])
    finally:
        os.close(fd)


def test_no_such_program() -> None:
    with pytest.raises(PlatformError, match=r"nonesuch: cannot be started: No such file") as caught:
        run(["nonesuch"], deadline=soon())
    assert caught.value.exit_status == 69
    assert "nonesuch" in caught.value.hint


def test_outputs_are_not_printed_but_the_command_can_be_replayed() -> None:
    done = sh("echo topsecret' '1")
    assert b"topsecret 1" in done.stdout
    assert "topsecret 1" not in repr(done)
    assert done.replay == """/bin/sh -c 'echo topsecret'"'"' '"'"'1'"""


def test_no_descriptor_is_left_open() -> None:
    gc.collect()  # what other tests left, and would close meanwhile
    before = len(list(Path("/proc/self/fd").iterdir()))
    sh("cat", stdin=b"x")
    with pytest.raises(Oversized):
        sh("yes", max_output=10)
    with pytest.raises(DeadlineExceeded):
        run(["sleep", "99"], deadline=soon(0.1))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_spawn() -> None:
    script = "import os; raise SystemExit(0 if os.environ.get('NOTIFY_SOCKET') == '/n' else 1)"
    child = spawn([sys.executable, "-c", script], extra={"NOTIFY_SOCKET": "/n"})
    assert child.wait(60) == 0
    with pytest.raises(UsageError):
        spawn(["true"], extra={"LD_PRELOAD": "x"})
