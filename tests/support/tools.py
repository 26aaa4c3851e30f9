"""Tools of the machine that a test may lack: skipped on a laptop, a failure in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest


def need(name: str) -> str:
    """Path of the tool. Skips, or fails in CI, when it is not installed."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed, and CI must not skip it")
        pytest.skip(f"{name} is not installed")
    return found


def output(*argv: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Standard output and error of a tool that must succeed."""
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def status(*argv: str | Path, folder: Path) -> int:
    """Exit status of a tool run in ``folder``, whatever it says."""
    words = [str(word) for word in argv]
    return subprocess.run(words, capture_output=True, timeout=240, check=False, cwd=folder).returncode
