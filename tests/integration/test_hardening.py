"""Nothing of a process's memory reaches a disk: real crashes, with the core limit raised first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[2]
_NOT_RAISED = 99
_PATTERN = Path("/proc/sys/kernel/core_pattern")

ABORT = "import os, signal; os.kill(os.getpid(), signal.SIGABRT)"
HARDENED = f"from agent.hardening import harden; harden(); {ABORT}"
CHILD = f"""
import sys
from agent.deadline import Deadline
from agent.hardening import harden
from agent.run import run
harden()
done = run([sys.executable, "-c", {ABORT!r}], deadline=Deadline(60, "child"))
raise SystemExit(0 if done.returncode == -6 else 1)
"""
NOT_DUMPABLE_ALONE = f"""
import agent.hardening as hardening
hardening._no_core_limit = hardening._empty_coredump_filter = lambda: ""
hardening.harden(lock_memory=False)
{ABORT}
"""


def crash(script: str, folder: Path) -> int:
    """Run ``script`` where cores would fall; its return code."""

    argv = ["/bin/sh", "-c", f'ulimit -c unlimited || exit {_NOT_RAISED}; exec "$@"', "sh", sys.executable, "-c"]
    code = f"import sys; sys.path.insert(0, {str(_REPOSITORY)!r})\n{script}"
    return subprocess.run([*argv, code], cwd=folder, check=False, timeout=120).returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which a crash does leave a core: without that, the tests below would prove nothing."""
    if _PATTERN.read_text().startswith(("|", "/")):
        pytest.skip("cores of this machine do not fall into the current folder")
    control = tmp_path / "control"
    control.mkdir()
    ended = crash(ABORT, control)
    if ended == _NOT_RAISED:
        pytest.skip("the core limit cannot be raised here")
    assert ended == -6
    assert [path.name.partition(".")[0] for path in control.iterdir()] == ["core"]
    hardened = tmp_path / "hardened"
    hardened.mkdir()
    return hardened


def test_a_hardened_process_leaves_no_core(folder: Path) -> None:
    assert crash(HARDENED, folder) == -6
    assert list(folder.iterdir()) == []


def test_its_child_leaves_no_core(folder: Path) -> None:
    assert crash(CHILD, folder) == 0
    assert list(folder.iterdir()) == []


def test_not_dumpable_holds_by_itself(folder: Path) -> None:
    """Somebody may raise the limit of a running process (prlimit)."""
    assert crash(NOT_DUMPABLE_ALONE, folder) == -6
    assert list(folder.iterdir()) == []


STATE = """
import json, resource, sys
from agent.hardening import harden
notes = harden()
filters = open("/proc/self/coredump_filter").read().strip()
locked = [line for line in open("/proc/self/status") if line.startswith("VmLck")]
json.dump([notes, filters, resource.getrlimit(resource.RLIMIT_CORE), int(locked[0].split()[1])], sys.stdout)
"""


def test_filter_limit_and_lock_take_effect(tmp_path: Path) -> None:
    import json

    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(_REPOSITORY)!r})\n{STATE}"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        timeout=120,
    )
    notes, filters, limit, locked = json.loads(done.stdout)
    assert int(filters, 16) == 0
    assert limit == [0, 0]
    assert (locked > 0) != any(note.startswith("memory not locked") for note in notes)
    assert [note for note in notes if not note.startswith("memory not locked")] == []


def test_a_small_lock_limit_is_noted_and_harmless(tmp_path: Path) -> None:
    """Without the right to lock, allocations must go on working."""
    script = (
        "import ctypes, resource, sys\n"
        f"sys.path.insert(0, {str(_REPOSITORY)!r})\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
        "import os\n"
        "from agent.hardening import harden\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "notes = harden()\n"
        "data = bytearray(64 << 20)\n"
        "raise SystemExit(0 if any('memory not locked' in note for note in notes) else 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=120).returncode == 0
