"""The quick start's commands are ones that there are, with options that there are."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from agent import cli

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "docs" / "quickstart.md", *sorted((ROOT / "packaging" / "man").glob("tee-agent-[scp][eor]*.md"))]
PAGE = PAGES[0]


def commands(page: Path) -> list[list[str]]:
    """Every `tee-agent` command of a page's examples, continued lines joined, shell words around it cut off."""
    text = page.read_text().replace("\\\n", " ")
    found = re.findall(r"^    (?:vm# |.*\| )?tee-agent ([a-z].*)$", text, re.MULTILINE)
    lines = [re.split(r" (?:&&|\|\||\||>)", line)[0].partition("   #")[0] for line in found]
    return [words for words in map(shlex.split, lines) if words[0] in cli.COMMANDS]


def parser(name: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=name, parents=[cli.common_options()], exit_on_error=False)
    importlib.import_module(f"agent.commands.{name}").configure(made)
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page: Path) -> None:
    for name, *words in commands(page):
        _, own = cli.common_options().parse_known_args(words)
        assert parser(name).parse_args(own), words


def test_the_quick_start_walks_the_whole_way() -> None:
    steps = [" ".join(words[:2]) for words in commands(PAGE)]
    order = ["policy draft", "setup --url", "config check", "policy draft", "disk bind", "preflight", "status"]
    assert [step for step in steps if step in order] == order


def test_its_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / link).exists(), link
