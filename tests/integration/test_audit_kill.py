"""The audit log under kill -9: a writer dies at each step that changes a file or a name, and so do those after it.

Whatever the step, the next writer goes on, every record that was told to be written is there, and the chain verifies.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.auditlogs import STEPS, WHO, opened, told, verify
from tests.support.daemon import ROOT

EVENTS = 17
"""Enough for two rotations."""
ALL = 100
"""Full files to keep: more than there are."""


class Writers:
    """Makes writers; a warm process forks them, for there are hundreds."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, folder: Path, step: int, events: int = EVENTS, keep: int = ALL) -> tuple[str, list[str]]:
        """At which step a writer died, "" for one that got through, and what it said was on the disk."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([str(folder), step, events, keep]) + "\n")
        self._process.stdin.flush()
        status, out, err = json.loads(self._process.stdout.readline())
        assert (status, err.strip() in STEPS) in ((-signal.SIGKILL, True), (0, False)), err
        return err.strip(), out.splitlines()

    def deaths(self, tmp_path: Path, keep: int) -> Iterator[tuple[Path, str, list[str]]]:
        """A folder for each step of a writer that died there, until one gets through."""
        for step in count(1):
            folder = tmp_path / str(step)
            folder.mkdir()
            name, said = self.run(folder, step, keep=keep)
            if not name:
                return
            yield folder, name, said


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    argv = [sys.executable, "-m", "tests.support.auditlogs"]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Writers(process)


def head_of(said: list[str]) -> bytes | None:
    return bytes.fromhex(said[-1].split()[1]) if said else None


def test_kill_at_each_step_loses_no_event_that_was_told(writers: Writers, tmp_path: Path) -> None:
    died, torn = Counter[str](), 0
    for folder, name, said in writers.deaths(tmp_path, ALL):
        died[name] += 1
        opened(folder).close()
        records = told(folder, head_of(said))
        keys = [about["key"] for kind, about in records if kind == "key.created"]
        assert keys[: len(said)] == [f"n/{number}" for number in range(len(said))], folder
        assert len(keys) <= len(said) + 1
        kinds = [kind for kind, _ in records]
        assert kinds[-1] == "agent.started"
        assert "log.damaged" not in kinds
        files = list(folder.glob("audit-torn-*"))
        assert [about["file"] for kind, about in records if kind == "log.torn"] == [path.name for path in files]
        torn += len(files)
    assert torn > 10
    assert died["rename"] == 5, "three files begin, two of them after a full one got its name"
    assert min(died[name] for name in ("open", "write", "fsync")) >= 8


def test_kill_while_old_files_go(writers: Writers, tmp_path: Path) -> None:
    """With one full file kept, rotation also removes; what is left verifies, and begins with a whole file."""
    died = Counter[str]()
    for folder, name, said in writers.deaths(tmp_path, 1):
        died[name] += 1
        log = opened(folder, keep=1)
        log.event("key.ended", severity="info")
        log.close()
        verify(folder, head_of(said))
    assert died["unlink"] >= 2


def shape(folder: Path) -> tuple[str, ...]:
    """What tells one state of a folder from another, for who must recover it: names, and whether the end is whole."""
    names = sorted(re.sub(r"[0-9]+", "#", path.name) for path in folder.iterdir())
    current = folder / "audit.jsonl"
    data = current.read_bytes() if current.exists() else b"\n"
    return *names, "whole" if data.endswith(b"\n") else "torn" if data else "empty"


def recoveries(writers: Writers, folder: Path, copies: Path, head: bytes | None) -> Counter[str]:
    """Kill the recovery of a folder at each of its steps; where it died.

    Afterwards the chain holds, with ``head`` in it.
    """
    died = Counter[str]()
    for step in count(1):
        again = copies / str(step)
        shutil.copytree(folder, again)
        name, said = writers.run(again, step, events=1)
        if said or not name:
            break
        died[name] += 1
        opened(again).close()
        assert "log.damaged" not in [kind for kind, _ in told(again, head)]
    return died


def test_kill_during_recovery_from_every_state_loses_nothing_either(writers: Writers, tmp_path: Path) -> None:
    died, seen = Counter[str](), set[tuple[str, ...]]()
    for folder, _, said in writers.deaths(tmp_path, ALL):
        if shape(folder) in seen or not said:
            continue
        seen.add(shape(folder))
        died += recoveries(writers, folder, tmp_path / f"{folder.name}-again", head_of(said))
    assert len(seen) >= 5, seen
    assert set(died) == set(STEPS)


def test_a_torn_end_is_cut_off_at_any_kill(writers: Writers, tmp_path: Path) -> None:
    for step in range(1, 12):
        folder = tmp_path / str(step)
        folder.mkdir()
        log = opened(folder)
        log.event("key.created", severity="notice", caller=WHO, key="n/0")
        head = log.head()
        log.close()
        with (folder / "audit.jsonl").open("ab") as file:
            file.write(b'{"boot_id":"half')
        assert writers.run(folder, step)[0]
        opened(folder).close()
        kinds = [kind for kind, _ in told(folder, head)]
        assert "log.torn" in kinds
        assert "log.damaged" not in kinds
