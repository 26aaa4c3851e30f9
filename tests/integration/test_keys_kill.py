"""Persistent keys under kill -9 at each write, fsync, rename and unlink of their whole life, and of the start after."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.daemon import ROOT
from tests.support.keyfolders import fresh
from tests.support.keykill import State


def played(folder: Path) -> int:
    """Lives that ended at each step; the number of the one that did not."""
    argv = [sys.executable, "-m", "tests.support.keykill", str(folder)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def said(folder: Path, step: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{step}.said").read_text().splitlines()]


def read(folder: Path) -> State:
    """What a new process finds, every key of it tried."""
    contents = fresh(folder)
    assert (contents.broken, contents.notes) == ({}, [])
    return {
        found.stored.name: [f"{one.number} {one.spki.hex()}" for one in found.stored.generations]
        for found in contents.keys
    }


def shape(state: State) -> dict[str, list[str]]:
    """Without the keys, which differ from life to life."""
    return {name: [one.split()[0] for one in generations] for name, generations in state.items()}


def test_a_kill_at_any_step_loses_no_key_and_brings_none_back(tmp_path: Path) -> None:
    last = played(tmp_path)
    whole = said(tmp_path, last)
    order = [line["what"] for line in whole]
    assert last > 120
    assert order[-1] == "create a"
    between = 0
    for step in range(1, last + 1):
        answered = said(tmp_path, step)
        assert [line["what"] for line in answered] == order[: len(answered)]
        found = read(tmp_path / str(step))
        before = answered[-1]["state"] if answered else {}
        now = whole[min(len(answered), len(whole) - 1)]
        if found != before:
            # The change under way was made, and wholly: the one before it in no part undone.
            assert shape(found) == shape(now["state"]), (step, now["what"])
            kept = {one for name in before for one in before[name]} & {one for name in found for one in found[name]}
            assert len(kept) >= sum(map(len, shape(found).values())) - 1, (step, now["what"])
            between += 1
        left = sorted(path.name.rpartition("@")[0] or path.name for path in (tmp_path / str(step)).iterdir())
        assert left == sorted([*(f"uid-1@{name}" for name in found), "index", "index.copy", "lock"])
    assert between > 10
