"""What is left of a role's capabilities, and that one which has none makes no call that its unit's filter refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import tools
from tests.support.daemon import CLOSED, ROOT, SIGNER, as_user

DROP = """
import sys
from pathlib import Path
from agent.daemon import privileges
{before}
privileges.{drop}
lines = dict(line.split(":\\t") for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap"))
sys.stdout.write(" ".join(sorted(set(lines.values()))))
"""
NOBODY = "import os; os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"
BECOME = f"become(privileges.User({SIGNER}, {SIGNER}))"


def dropped(
    before: str, drop: str = "drop_capabilities()", within: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    program = DROP.format(before=before, drop=drop)
    argv = [tools.need("strace"), "-qq", "-e", "trace=capset", *within, sys.executable, "-c", program]
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


@pytest.mark.skipif(os.geteuid() != 0, reason="root has what is to be dropped")
@pytest.mark.parametrize(
    "within",
    [
        [],
        ["setpriv", "--securebits", "+no_setuid_fixup"],
        pytest.param(
            [*as_user(SIGNER), "--inh-caps", "+net_admin,+sys_ptrace", "--ambient-caps", "+net_admin,+sys_ptrace"],
            marks=pytest.mark.skipif(CLOSED, reason="other users can't read the source, as below /root"),
        ),
    ],
    ids=["root", "root that keeps them", "given to another user"],
)
def test_a_role_has_none_whoever_started_it(within: list[str]) -> None:
    done = dropped("", BECOME, within)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"0" * 16, bounding(within)}


def bounding(within: Sequence[str]) -> str:
    """What may stay where root did not start it: the bounding set, which no_new_privs makes worthless."""
    if not within or "--reuid" not in within:
        return "0" * 16
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = [line.split("\t")[1] for line in lines if line.startswith("CapBnd:")]
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
@pytest.mark.parametrize("uid", [(1 << 32) - 1, 1 << 32, 1 << 40])
def test_a_number_that_is_no_user_s_is_refused(uid: int) -> None:
    """-1 means nobody's change to setresuid: root would stay root."""
    program = f"""
from agent.core.errors import PermissionMissing
from agent.daemon import privileges
try:
    privileges.become(privileges.User({uid}, {SIGNER}))
except PermissionMissing as error:
    print(error.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "platform.permission\n"
