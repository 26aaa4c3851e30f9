"""Rules for all tests: no verdict depends on time; where genuine vectors are required, a skipped test of one is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

REQUIRED = bool(os.environ.get("TEE_AGENT_REQUIRE_VECTORS"))

settings.register_profile("ours", deadline=None, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("ours")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if REQUIRED and report.skipped and "vector" in f"{item.nodeid} {report.longrepr}":
        report.outcome = "failed"
        report.longrepr = f"genuine vectors are required here, and this was skipped: {report.longrepr}"
    return report
