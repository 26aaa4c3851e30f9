"""The process for questions, forked from a small program of ours: what it may not do, and what becomes of what does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import asyncio, json, os, socket, subprocess, sys
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

async def main(found):
    said = []
    for question in sys.argv[1:]:
        try:
            said.append((await found.ask(question.encode())).decode()[:2000])
        except ServerError as error:
            said.append(error.code)
    print(json.dumps(said))

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


@pytest.mark.parametrize("kind", ["memory", "loop", "crash", "long", "nothing"])
def test_what_ends_badly_ends_alone(kind: str) -> None:
    assert asked("first", kind, "second") == ["echo first", "server.verify", "echo second"]
