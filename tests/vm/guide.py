"""docs/quickstart.md as a program: its commands in order, and the table of what a test must put in their place.

A command is a line of a code block that begins with the prompt of one of the guide's two machines, ``tas#`` or
``vm#``; a backslash at its end continues it. All other lines there show what a command prints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from tests.vm.command import REPOSITORY, HarnessError

GUIDE = REPOSITORY / "docs/quickstart.md"
_COMMAND = re.compile(r"^    (?P<machine>tas|vm)# (?P<words>(?:.*\\\n)*.*)$", re.MULTILINE)
Machine = Literal["tas", "vm"]


@dataclass(frozen=True, slots=True)
class Step:
    """A command and the machine whose root types it."""

    machine: Machine
    command: str


def steps(text: str) -> list[Step]:
    """Every command of the guide, in order."""
    return [Step(cast("Machine", found["machine"]), found["words"]) for found in _COMMAND.finditer(text)]


def substituted(text: str, table: Mapping[str, str]) -> str:
    """``text`` with the guide's examples replaced by this test's; longer ones first."""
    for old in sorted(table, key=len, reverse=True):
        text = text.replace(old, table[old])
    return text


def require_used(text: str, table: Mapping[str, str]) -> None:
    """Raises HarnessError for an entry of the table that the guide has not: it would hide that the guide changed."""
    for old in table:
        if old not in text:
            raise HarnessError(f"{GUIDE.name} has no {old!r} for which the test has a substitute")
