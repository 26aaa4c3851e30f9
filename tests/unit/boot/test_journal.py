"""Early boot's account as lines of the journal."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from agent.boot import journal
from agent.boot.report import Outcome, Report
from agent.core.errors import TransportError


def test_a_boot_as_early_boot_writes_it() -> None:
    report = Report(outcome="unlocked", timeline={"mapped": 9.5, "agent": 5.125}, notices=["an added root"])
    typed, good = Outcome("root", "UUID=1", how="passphrase"), Outcome("data", "UUID=2", how="attestation")
    typed.failed(TransportError("no answer", hint="look at the service"))
    report.volumes = [typed, good]
    assert list(journal.lines(asdict(report))) == [
        (journal.NOTICE, "early boot: unlocked"),
        (journal.WARNING, "volume root: opened by passphrase: [transport] no answer (look at the service)"),
        (journal.NOTICE, "volume data: opened by attestation"),
        (journal.WARNING, "an added root"),
        (journal.NOTICE, "seconds since the kernel started: agent 5.125, mapped 9.5"),
    ]


def test_a_boot_that_was_stopped_is_an_error() -> None:
    lines = list(journal.lines({"outcome": "stopped", "code": "disk", "message": "no", "volumes": [{"name": "root"}]}))
    assert lines == [(journal.ERROR, "early boot: stopped: [disk] no"), (journal.NOTICE, "volume root: closed")]


def test_one_line_each_whatever_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "boot.json").write_text(json.dumps(asdict(Report(outcome="idle", notices=["two\nlines\x1b[31m"]))))
    assert journal.main(tmp_path / "boot.json") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "<5>early boot: idle"
    assert len(lines) == 2
    assert "\x1b" not in lines[1]


def test_no_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert journal.main(tmp_path / "boot.json") == journal.UNREADABLE
    assert "can't be read" in capsys.readouterr().err
