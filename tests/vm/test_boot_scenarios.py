"""Every scenario of tests/vm/scenarios.py, each in a virtual machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vm import play, timeline
from tests.vm.scenarios import SCENARIOS

pytestmark = [
    pytest.mark.vm,
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.timeout(1500),  # the first builds QEMU and images, and any may wait for another worker's machine
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/fuse").exists(), reason="needs root and /dev/fuse"),
]


@pytest.mark.parametrize("name", SCENARIOS)
def test_boot(name: str) -> None:
    played = play.play(name, SCENARIOS[name])
    print(*timeline.lines(played), sep="\n")
    assert not played.problems, "\n".join([*played.problems, f"console: {play.FAILED / name}.log"])
