"""Fixtures for tests with real processes; ``fuse`` and ``root`` tests are skipped where the machine has neither."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.simulator import pki_state

__all__ = ["pki_state"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Says what is missing."""
    root = os.geteuid() == 0
    if item.get_closest_marker("root") and not root:
        pytest.skip("needs root")
    if item.get_closest_marker("fuse") and not (root and Path("/dev/fuse").exists()):
        pytest.skip("needs root and /dev/fuse")
