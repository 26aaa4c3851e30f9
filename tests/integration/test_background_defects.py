"""A role whose background work ends by a defect ends with it, told and with an exit status: systemd starts it again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import FETCHER, ROOT, SIGNER, open_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starts roles as other users")

CONFIG = """
[tas]
url = "http://127.0.0.1:1"
api_key_file = "{folder}/key"
[daemon]
runtime_dir = "{folder}/run"
signer_user = "{signer}"
fetcher_user = "{fetcher}"
"""
FETCH = """
import sys
from agent.cli import main
from agent.daemon import fetcher
async def look(self, check):
    {defect}
fetcher.Watch.{method} = look
sys.exit(main(["daemon", "--role", "fetcher", "--config", sys.argv[1]]))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


def fetched(folder: Path, method: str, defect: str) -> tuple[int, str]:
    """Exit status and last words of a fetcher with this defect in its watch."""
    (folder / "key").write_text("an-identifier")
    config = folder / "agent.toml"
    config.write_text(CONFIG.format(folder=folder, signer=SIGNER, fetcher=FETCHER))
    words = [sys.executable, "-c", FETCH.format(method=method, defect=defect), str(config)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_a_watch_that_crashes_ends_the_fetcher(folder: Path) -> None:
    status, said = fetched(folder, "_look", "raise RuntimeError('planted')")
    assert status == 1
    assert said.endswith("RuntimeError: planted\n")


def test_a_watch_that_just_ends_ends_the_fetcher_with_a_failure(folder: Path) -> None:
    status, said = fetched(folder, "run", "return")
    assert status == 70
    assert "came to its end" in said
    assert "Traceback" not in said
