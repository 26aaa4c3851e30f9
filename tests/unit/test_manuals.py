"""The manual is held against the code: tables, commands and exit codes."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from agent import cli
from agent.core import errors
from tests.support import manual

MAN = Path(__file__).resolve().parents[2] / "packaging" / "man"


def test_configuration_tables_are_the_code_s() -> None:
    page = manual.PAGE.read_text()
    assert manual.rendered(page) == page, "python -m tests.support.manual writes them anew"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_line_is_the_module_s(name: str) -> None:
    assert cli.COMMANDS[name] == importlib.import_module(f"agent.commands.{name}").HELP


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_command_has_help_with_an_example_and_a_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"tee-agent {name}" in text
    assert "example" in text.lower()
    assert "exit status" in text
    page = next(MAN.glob(f"tee-agent-{name}.[18].md")).read_text()
    assert "## EXIT STATUS" in page
    assert "## CAVEATS" in page


def test_every_exit_status_is_in_the_manual() -> None:
    page = (MAN / "tee-agent.8.md").read_text()
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.TeeAgentError)]
    missing = {c.exit_status for c in classes if f"| {c.exit_status} |" not in page}
    assert not missing


def test_every_code_is_in_the_taxonomy_s_drawing() -> None:
    drawing = errors.__doc__ or ""
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.TeeAgentError)]
    assert [c.__name__ for c in classes if c.code not in drawing or c.__name__ not in drawing] == []


def test_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["frobnicate"]) == 64
    assert "frobnicate" in capsys.readouterr().err
    assert cli.main([]) == 64
