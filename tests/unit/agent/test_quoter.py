"""The typed door: each purpose reaches the source as that purpose's binding, and nothing else gets through."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from agent.core import binding
from agent.core.binding import Scope
from agent.core.errors import FormatError, PlatformError
from agent.core.model import Evidence, Nonce, ReportData, Tee
from agent.core.ports import Deadline as AnyDeadline
from agent.deadline import Deadline
from agent.quoter import Quoter, Quotes, local_scope

SCOPE = Scope("aud", "boot")


class Echo:
    """Gives the REPORT_DATA back as evidence."""

    def quote(self, report_data: ReportData, *, deadline: AnyDeadline) -> Evidence:
        assert deadline.remaining() > 0
        return Evidence(Tee.SNP, report_data.value)


def test_each_purpose() -> None:
    quoter: Quotes = Quoter(Echo(), SCOPE)
    soon = Deadline(60, "t")
    nonce = Nonce("0" * 64)
    assert quoter.tas(nonce, b"key", deadline=soon).blob == binding.tas(nonce, b"key").value
    assert (
        quoter.signing_key("ed25519", "bundle", b"spki", b"d" * 64, deadline=soon).blob
        == binding.signing_key(SCOPE, "ed25519", "bundle", b"spki", b"d" * 64).value
    )
    assert (
        quoter.challenge_batch(5, b"r" * 64, deadline=soon).blob == binding.challenge_batch(SCOPE, 5, b"r" * 64).value
    )
    assert quoter.collect(b"n" * 16, deadline=soon).blob == binding.collect(SCOPE, b"n" * 16).value
    with pytest.raises(FormatError):
        quoter.collect(b"n", deadline=soon)
    with pytest.raises(FormatError):
        quoter.tas(nonce, b"", deadline=soon)


def test_no_method_takes_report_data() -> None:
    for name, method in inspect.getmembers(Quoter, inspect.isfunction):
        if not name.startswith("_"):
            assert "report_data" not in inspect.signature(method).parameters
            assert "ReportData" not in str(inspect.signature(method))


def test_local_scope(tmp_path: Path) -> None:
    file = tmp_path / "boot_id"
    file.write_text("5f0c2d1a-7b3e-4c7d-9a51-0d6f2b8e4c33\n")
    assert local_scope("aud", file) == Scope("aud", "5f0c2d1a-7b3e-4c7d-9a51-0d6f2b8e4c33")
    file.write_bytes(b"\xff")
    for bad in (file, tmp_path / "absent"):
        with pytest.raises(PlatformError):
            local_scope("aud", bad)
