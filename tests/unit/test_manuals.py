"""The manual is held against the code: tables, commands and exit codes."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import cli
from agent.core import errors
from tests.support import manual

OPTION = re.compile(r"--[a-z][a-z-]*[a-z]")
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


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Of a command and its sub-commands, what --help shows."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from options(one)
        elif action.option_strings and action.help != argparse.SUPPRESS:
            yield action


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_page_has_the_options_that_there_are(name: str) -> None:
    parser = argparse.ArgumentParser(parents=[cli.common_options()])
    importlib.import_module(f"agent.commands.{name}").configure(parser)
    there = {word for one in options(parser) for word in one.option_strings if word.startswith("--")}
    page = next(MAN.glob(f"tee-agent-{name}.[18].md")).read_text()
    told = set(OPTION.findall(page)) | set(OPTION.findall((MAN / "tee-agent.8.md").read_text()))
    assert there - told == set()
    usage = page[page.index("## SYNOPSIS") : page.index("## DESCRIPTION")]
    defined = [line for line in page.splitlines() if line.startswith("`-")]
    assert set(OPTION.findall("\n".join([usage, *defined]))) - there == set()
    choices = {str(choice) for one in options(parser) for choice in one.choices or ()}
    assert {choice for choice in choices if f"`{choice}`" not in page} == set()


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
