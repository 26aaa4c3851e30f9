"""What early boot leaves, and who can read it back."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest

from agent import boot
from agent.boot import report
from agent.boot.report import Outcome, Report, read
from agent.core.errors import Denied


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run" / "boot.json"
    monkeypatch.setattr(report, "PATH", path)
    return path


def test_what_is_saved_is_read_back(place: Path) -> None:
    made = Report(volumes=[Outcome("root", "/dev/vda", uuid="u", how="attestation", devno="253:0")], notices=["n"])
    made.started()
    made.mark("network")
    made.stopped(Denied("no", hint="h"))
    assert Report.load() == made
    assert place.stat().st_mode & 0o777 == 0o644
    assert list(place.parent.iterdir()) == [place]
    assert 0 <= made.timeline["agent"] <= made.timeline["network"]


def test_nothing_there(place: Path) -> None:
    assert read(place) is None
    assert Report.load() == Report()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"volumes": 1, "timeline": {}}', '{"volumes": [{}], "timeline": {}}',
     '{"volumes": [], "timeline": {"a": "b"}}', '{"volumes": [], "timeline": {}, "other": 1}', "[" * 100_000],
)  # fmt: skip
def test_something_else_there(tmp_path: Path, text: str) -> None:
    path = tmp_path / "boot.json"
    path.write_text(text)
    assert read(path) is None


def test_a_run_that_can_t_be_written_does_not_stop_the_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(report, "PATH", tmp_path / "file" / "boot.json")
    Report().save()


def step(monkeypatch: pytest.MonkeyPatch, run: Callable[[Report], None]) -> None:
    """Let both steps do this."""
    monkeypatch.setitem(sys.modules, "a_step", cast("ModuleType", SimpleNamespace(run=run)))
    for name in boot.STEPS:
        monkeypatch.setitem(boot.STEPS, name, "a_step")


def test_a_refused_step_stops_and_says_why(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: Report) -> None:
        raise Denied("the line\x1b[2J is bad", hint="look", code="denied.cmdline")

    step(monkeypatch, run)
    assert boot.main(["unlock"]) == boot.STOP
    assert capsys.readouterr().err == "tee-agent: [denied.cmdline] the line [2J is bad\n  look\n"
    assert json.loads(place.read_text())["code"] == "denied.cmdline"


def test_steps_that_go_well_share_a_report(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(done: Report) -> None:
        done.notices.append(f"after {len(done.notices)}")

    step(monkeypatch, run)
    assert boot.main(["unlock"]) == boot.GO_ON
    assert boot.main(["root"]) == boot.GO_ON
    assert json.loads(place.read_text())["notices"] == ["after 0", "after 1"]
