"""A new admin who follows docs/quickstart.md, and nothing else, has a VM that boots by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vm import guide, quickstart

pytestmark = [
    pytest.mark.vm,
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.timeout(2400),  # two boots, and it may wait for another worker's machine
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/fuse").exists(), reason="needs root and /dev/fuse"),
]


def test_the_guide_leads_to_an_unattended_boot() -> None:
    followed = quickstart.follow()
    print(*(f"{seconds:6.1f} s  {step}" for seconds, step in followed.times), sep="\n")
    print(f"boots: {followed.first.seconds:.0f} s with the guide, {followed.second.seconds:.0f} s alone")
    assert not followed.problems, "\n".join(followed.problems)


def test_its_commands() -> None:
    """What the test takes from the guide is what a reader would type."""
    commands = guide.steps(guide.GUIDE.read_text())
    assert {step.machine for step in commands} == {"tas", "vm"}
    assert [step.command for step in commands if step.machine == "vm"][-2:] == [
        quickstart.FIRST_BOOT_LAST,
        quickstart.AFTERWARDS,
    ]
    assert sum(step.command == quickstart.STALE for step in commands) == 1
    assert commands[-1].command == quickstart.AFTERWARDS
