"""Fixtures for tests with real processes; ``fuse`` and ``root`` tests are skipped where the machine has neither."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import luks
from tests.support.simulator import Simulator, pki_state, running_simulator

__all__ = ["pki_state"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Says what is missing."""
    root = os.geteuid() == 0
    if item.get_closest_marker("root") and not root:
        pytest.skip("needs root")
    if item.get_closest_marker("fuse") and not (root and Path("/dev/fuse").exists()):
        pytest.skip("needs root and /dev/fuse")


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory, pki_state: Path) -> Iterator[Simulator]:
    """An SNP simulator for all tests of a file."""
    with running_simulator("snp", tmp_path_factory.mktemp("sim"), pki_state) as running:
        yield running


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LUKS2 image, formatted once."""
    return luks.make_image(tmp_path_factory.mktemp("luks") / "template.img")


@pytest.fixture
def image(template: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copy(template, tmp_path / "data.img"))
