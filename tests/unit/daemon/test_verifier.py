"""The processes for questions, forked from a small program of ours: what they may not do, and what ends which of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import pytest

from agent.daemon.verifier import AT_ONCE
from tests.support.processes import Held, children
from tests.support.waiting import awaited

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import asyncio, atexit, json, os, socket, stat, sys, time
from agent.core.errors import ServerError
from agent.daemon import verifier

def attempt(what):
    try:
        what()
        return "done"
    except OSError as error:
        return "refused"

def work(data):
    kind = data.decode()
    if kind == "open":
        tries = {
            "file": lambda: open("/proc/self/status"),
            "create": lambda: open(os.environ["FORBIDDEN"], "w"),
            "socket": lambda: socket.socket(socket.AF_UNIX),
            "pipe": os.pipe,
            "dup": lambda: os.dup(2),
            "dup2": lambda: os.dup2(2, 9),
            "after closing one": lambda: (os.close(0), os.open("/dev/null", 0)),
            "fork": lambda: os.fork() or os._exit(0),
            "raise the limit": lambda: __import__("resource").setrlimit(__import__("resource").RLIMIT_NOFILE, (64, 64)),
        }
        def one(what):
            try:
                what()
                return "done"
            except (OSError, ValueError):
                return "refused"
        return json.dumps({name: one(what) for name, what in tries.items()}).encode()
    if kind == "look":
        def what(number):
            try:
                return stat.S_IFMT(os.fstat(number).st_mode)
            except OSError:
                return None
        found = {number: what(number) for number in range(64)}
        return json.dumps([number for number, mode in found.items() if mode and stat.S_ISSOCK(mode)]).encode()
    if kind == "raise":
        raise ValueError("a defect")
    if kind in ("slow", "hold"):
        os.write(2, b"+")
        time.sleep(3600 if kind == "hold" else 0.3)
        os.write(2, b"-")
    if kind == "memory":
        bytearray(1 << 30)
    if kind == "loop":
        while True:
            pass
    if kind == "crash":
        os.abort()
    if kind == "long":
        return b"x" * (verifier.MAX_ANSWER + 1)
    if kind == "nothing":
        return b""
    return b"echo " + data[:20]

async def abandoned(found):
    for _ in range(3 * verifier.AT_ONCE):
        asked = asyncio.create_task(found.ask(b"slow"))
        for _ in range(5):  # until the question is out, if there is room for it
            await asyncio.sleep(0)
        asked.cancel()
        yield asked

async def main(found):
    if sys.argv[1:] == ["abandon"]:
        left = [asked async for asked in abandoned(found)]
        await asyncio.wait(left)
        print(json.dumps([asked.cancelled() for asked in left]))
        return
    if sys.argv[1:] == ["wait"]:
        for _ in range(verifier.AT_ONCE):
            holding = asyncio.create_task(found.ask(b"hold"))
        await asyncio.sleep(0)
        waits = asyncio.create_task(found.ask(b"slow"))
        await asyncio.sleep(0)
        waits.cancel()
        done, _ = await asyncio.wait([waits], timeout=60)
        print(json.dumps([waits in done, holding.done()]), flush=True)
        os._exit(0)
    if sys.argv[1:] == ["life"]:
        found.watch(lambda what, error: print(what, error.code, flush=True))
        asyncio.get_running_loop().add_reader(0, lambda: asyncio.create_task(one(os.read(0, 20))))
        async def one(question):
            try:
                print((await found.ask(question)).decode(), flush=True)
            except ServerError as error:
                print(error, flush=True)
        print("ready", flush=True)
        await asyncio.Event().wait()
    said = []
    for question in sys.argv[1:]:
        try:
            said.append((await found.ask(question.encode())).decode()[:2000])
        except ServerError as error:
            said.append(error.code)
    print(json.dumps(said))

def unheard(*_):
    raise OSError("the log is full")

sys.excepthook = unheard  # what fails while it fails must not go on as its parent
atexit.register(lambda: os.write(2, b"at exit"))
if sys.argv[1:] in (["life"], ["wait"]):
    verifier.PATIENCE_SECONDS = 3600  # nothing there ends for having taken too long
verifier.CPU_SECONDS = 1
if os.geteuid() == 0:  # as no role of ours is: root may have as many processes as it likes
    os.setgroups([])
    os.setresgid(64101, 64101, 64101)
    os.setresuid(64101, 64101, 64101)
asyncio.run(main(verifier.spawn(work)))
"""


def asked(*questions: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *questions], cwd=ROOT, capture_output=True, timeout=120, check=True
    )
    # Of all processes only the one that was started comes to the end of the program.
    assert done.stderr.count(b"at exit") == 1
    said: list[str] = json.loads(done.stdout)
    return said


def test_nothing_can_be_opened_or_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("FORBIDDEN", str(tmp_path / "was-here"))
    (said,) = asked("open")
    found = json.loads(said)
    assert len(found) == 9
    assert set(found.values()) == {"refused"}
    assert not list(tmp_path.iterdir())


def test_what_reads_a_question_has_no_way_to_others() -> None:
    """One socket: its own link. That on which the server hears of everybody's questions is not there."""
    (said,) = asked("look")
    assert len(json.loads(said)) == 1


@pytest.mark.parametrize("kind", ["memory", "loop", "crash", "long", "nothing", "raise"])
def test_what_ends_badly_ends_alone(kind: str) -> None:
    assert asked("first", kind, "second") == ["echo first", "server.verify", "echo second"]


def test_who_leaves_does_not_make_room_while_the_question_is_read() -> None:
    """Else whoever asks and leaves, again and again, has as many processes as the machine can hold."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "abandon"], cwd=ROOT, capture_output=True, timeout=120, check=True
    )
    assert json.loads(done.stdout) == [True] * 3 * AT_ONCE
    at_once = list(accumulate({ord("+"): 1, ord("-"): -1}[mark] for mark in done.stderr.removesuffix(b"at exit")))
    assert len(at_once) >= 2 * AT_ONCE
    assert max(at_once) <= AT_ONCE


def test_who_leaves_before_its_turn_costs_nothing() -> None:
    words = [sys.executable, "-c", PROGRAM, "wait"]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, timeout=120, check=True)
    assert json.loads(done.stdout) == [True, False]


class Life:
    """The program while it runs: it answers each line of its input."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        (self.keeper,) = children(process.pid)
        self.server = self.child(self.keeper)

    def child(self, pid: int) -> int:
        """The one child of a process, as soon as there is one."""
        return awaited(lambda: children(pid))[0]

    def read(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, question: str) -> str:
        assert self.process.stdin
        self.process.stdin.write(question)
        self.process.stdin.flush()
        return self.read()


@contextmanager
def life() -> Iterator[Life]:
    words = [sys.executable, "-c", PROGRAM, "life"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield Life(process)
        finally:
            process.kill()


def test_a_server_that_ends_is_replaced() -> None:
    with life() as found:
        assert found.ask("a") == "echo a"
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGKILL):
            with Held(found.server) as ended:
                os.kill(found.server, number)
                assert ended.gone()
            # Who asks meanwhile waits for the next one.
            assert found.ask("b") == "echo b"
            before, found.server = found.server, found.child(found.keeper)
            assert found.server != before
        found.process.kill()
        assert found.process.stderr
        said = found.process.stderr.read()
        assert said.count("another one follows") == 3
        assert said.count("tee-agent verifier: ended by signal 9; another one follows\n") == 2


def test_a_stop_of_the_unit_ends_none_of_them() -> None:
    with life() as found:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(found.keeper, number)
            os.kill(found.server, number)
        assert found.ask("a") == "echo a"
        assert (children(found.process.pid), children(found.keeper)) == ([found.keeper], [found.server])


def test_without_the_keeper_questions_are_answered_still() -> None:
    with life() as found:
        with Held(found.keeper) as keeper, Held(found.server) as server:
            os.kill(found.keeper, signal.SIGKILL)
            assert keeper.gone()
            assert found.ask("a") == "echo a"
            os.kill(found.server, signal.SIGKILL)
            assert server.gone()
        assert found.read() == "verification server.verify"
        assert "ended from outside" in found.ask("b")
        # Nobody asks how they ended, and nothing of them stays.
        assert children(found.process.pid) == []


@pytest.mark.parametrize("first", ["keeper", "server"])
def test_all_gone_is_told_once(first: str) -> None:
    with life() as found:
        pids = [found.keeper, found.server] if first == "keeper" else [found.server, found.keeper]
        if first == "server":  # and its keeper before it could put another in its place
            os.kill(found.keeper, signal.SIGSTOP)
        for pid in pids:
            with Held(pid) as ended:
                os.kill(pid, signal.SIGKILL)
                assert ended.gone()
        assert found.read() == "verification server.verify"
        for _ in range(3):
            assert "ended from outside" in found.ask("a")


@pytest.mark.parametrize("end", ["signer", "server"])
def test_nothing_outlives_the_signer(end: str) -> None:
    """A question under way neither; nor does one outlive its server, which counts them."""
    with life() as found:
        assert found.process.stdin
        assert found.process.stderr
        found.process.stdin.write("hold")
        found.process.stdin.flush()
        assert found.process.stderr.read(1) == "+"
        with Held(found.keeper) as keeper, Held(found.server) as server, Held(found.child(found.server)) as question:
            os.kill(found.process.pid if end == "signer" else found.server, signal.SIGKILL)
            assert question.gone()
            assert server.gone()
            assert keeper.gone() if end == "signer" else not keeper.ended()


def test_the_next_server_is_not_waited_for_by_one_that_is_told_to_end() -> None:
    """In the pause between two servers the keeper hears that the signer is gone."""
    with life() as found, Held(found.keeper) as keeper:
        os.kill(found.server, signal.SIGKILL)
        os.kill(found.process.pid, signal.SIGKILL)
        assert keeper.gone()
