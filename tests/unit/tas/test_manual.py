"""tas(8) is held against the code: commands, options, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import ConfigError, Conflict, FormatError, ServerError, UsageError
from tas.admin import NoSuch
from tas.cli import COMMANDS, Command

PAGE = (Path(__file__).resolve().parents[3] / "packaging" / "man" / "tas.8.md").read_text()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.words)
def test_command_and_its_options_are_there(command: Command) -> None:
    synopsis = PAGE.partition("## SYNOPSIS")[2].partition("## DESCRIPTION")[0]
    assert f"`tas {command.words}`" in synopsis
    options = [option.names[0] for option in command.options if option.names[0].startswith("--")]
    assert [name for name in options if f"`{name}`" not in synopsis] == []


def test_exit_statuses_are_there() -> None:
    errors = (UsageError, FormatError, NoSuch, Conflict, ServerError, ConfigError)
    section = PAGE.partition("## EXIT STATUS")[2].partition("## EXAMPLES")[0]
    assert [error.exit_status for error in errors if f"`{error.exit_status}`\n" not in section] == []
