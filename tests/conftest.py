"""Rules for all tests: where genuine vectors are required, a skipped vector test is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

REQUIRED = bool(os.environ.get("TEE_AGENT_REQUIRE_VECTORS"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if REQUIRED and report.skipped and "vector" in f"{item.nodeid} {report.longrepr}":
        report.outcome = "failed"
        report.longrepr = f"genuine vectors are required here, and this was skipped: {report.longrepr}"
    return report
