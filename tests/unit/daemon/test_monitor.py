"""What the security monitor tells beside keys and denials: the boot, evidence that could not be had, the policy."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from agent.boot.report import Outcome, Report
from agent.core.errors import ConfigError, FirmwareError, TeeAgentError
from agent.core.model import Evidence, Nonce
from agent.daemon.journal import Reports
from agent.daemon.monitor import Event, Telling, boot_events
from agent.deadline import Deadline
from tests.support.auditlogs import opened, told
from tests.support.quotes import FakeQuotes

FAILED = {"code": "denied.attestation", "message": "no"}


def events(*volumes: Outcome) -> list[Event]:
    return list(boot_events(asdict(Report(outcome="unlocked", volumes=list(volumes)))))


def test_how_each_volume_was_opened() -> None:
    found = events(
        Outcome("root", "/dev/vda", how="attestation"),
        Outcome("data", "/dev/vdb", how="passphrase", code="denied.attestation", message="no"),
        Outcome("more", "/dev/vdc", code="denied.attestation", message="no"),
        Outcome("later", "/dev/vdd"),
    )
    assert found == [
        Event("boot.attested", "info", {"volume": "root"}),
        Event("boot.passphrase", "alert", {"volume": "data", **FAILED}),
        Event("boot.failed", "warning", {"volume": "more", **FAILED}),
    ]


def test_a_boot_that_left_nothing() -> None:
    assert list(boot_events(None)) == []
    assert events() == []


class Failing(FakeQuotes):
    """Quotes that the firmware refuses."""

    def signing_key(self, *_: Any, **__: Any) -> Evidence:
        raise FirmwareError("refused", errno=5, code="firmware.io")

    challenge_batch = tas = collect = signing_key


def test_evidence_that_could_not_be_had_is_told_and_raised() -> None:
    heard: list[tuple[str, str]] = []
    quotes = Telling(Failing(), lambda what, error: heard.append((what, error.code)))
    deadline = Deadline(5, "test")
    with pytest.raises(FirmwareError):
        quotes.signing_key("Ed25519", "raw", b"", b"", deadline=deadline)
    with pytest.raises(FirmwareError):
        quotes.challenge_batch(1, b"", deadline=deadline)
    assert heard == [("no evidence for a named key", "firmware.io"), ("no evidence for challenges", "firmware.io")]
    with pytest.raises(FirmwareError):
        quotes.tas(Nonce("0" * 64), b"", deadline=deadline)
    with pytest.raises(FirmwareError):
        quotes.collect(b"", deadline=deadline)
    assert len(heard) == 2


def test_evidence_that_came_is_passed_on() -> None:
    inner, heard = FakeQuotes(), list[TeeAgentError]()
    quotes = Telling(inner, lambda _, error: heard.append(error))
    quotes.signing_key("Ed25519", "raw", b"k", b"s", deadline=Deadline(5, "test"))
    quotes.challenge_batch(3, b"r", deadline=Deadline(5, "test"))
    assert [call[0] for call in inner.asked] == ["signing_key", "challenge_batch"]
    assert heard == []


def test_a_policy_read_again_is_told(tmp_path: Path) -> None:
    log = opened(tmp_path, 1 << 20)
    reports = Reports(log)

    async def body() -> None:
        reports.policy(3, None)
        reports.policy(3, ConfigError("10.toml: no such word"))
        await asyncio.gather(*reports._telling)

    asyncio.run(body())
    log.close()
    found = sorted(told(tmp_path)[-2:])
    assert found == [
        ("policy.kept", {"rules": 3, "code": "config", "message": "10.toml: no such word"}),
        ("policy.loaded", {"rules": 3}),
    ]
