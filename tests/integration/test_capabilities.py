"""What is left of a role's capabilities, and that one which has none makes no call that its unit's filter refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tools

ROOT = Path(__file__).resolve().parents[2]
DROP = """
import sys
from pathlib import Path
from agent.daemon import privileges
{before}
privileges.drop_capabilities()
lines = dict(line.split(":\\t") for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap"))
sys.stdout.write(" ".join(sorted(set(lines.values()))))
"""
NOBODY = "import os; os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"


def dropped(before: str) -> subprocess.CompletedProcess[str]:
    argv = [tools.need("strace"), "-qq", "-e", "trace=capset", sys.executable, "-c", DROP.format(before=before)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="root has what is to be dropped")
def test_root_keeps_none() -> None:
    done = dropped("")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"0" * 16}
    assert "capset(" in done.stderr


def test_who_has_none_does_not_ask() -> None:
    done = dropped(NOBODY if os.geteuid() == 0 else "")
    assert done.returncode == 0, done.stderr
    assert "capset(" not in done.stderr
