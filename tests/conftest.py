"""Rules for all tests: no verdict depends on time; where genuine vectors are required, a skipped test of one is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from agent import hardening

REQUIRED = bool(os.environ.get("TEE_AGENT_REQUIRE_VECTORS"))

settings.register_profile("ours", deadline=None, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("ours")


@pytest.fixture(scope="session", autouse=True)
def limits_of_its_own() -> Iterator[None]:
    """A command that runs inside the tests' process hardens itself: for good, and for every test after it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_no_core_limit", "_empty_coredump_filter"):
            patch.setattr(hardening, name, lambda: "")
        for name in ("_not_dumpable", "_locked"):
            patch.setattr(hardening, name, lambda _: "")
        yield


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long bytes have random parts: named by them, a test has another name in each of xdist's workers (pytest 8)."""
    return argname if isinstance(val, bytes) and len(val) > 32 else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if REQUIRED and report.skipped and "vector" in f"{item.nodeid} {report.longrepr}":
        report.outcome = "failed"
        report.longrepr = f"genuine vectors are required here, and this was skipped: {report.longrepr}"
    return report
