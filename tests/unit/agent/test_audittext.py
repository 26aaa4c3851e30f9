"""Records in words: every kind that the documentation names, with the fields that it may have, and those it may not."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter

import pytest

from agent.auditlog import Line
from agent.audittext import WORDS, words
from agent.core.audit import START, Record

PAGE = Path(__file__).resolve().parents[3] / "docs" / "audit.md"


def said(kind: str, **fields: object) -> str:
    at = datetime(2026, 11, 22, 12, tzinfo=UTC)
    return words(Line(b"", Record(1, at, "", kind, "info", None, fields, START)))


def test_the_page_names_every_kind() -> None:
    rows = [
        line.split("|")[1] for line in PAGE.read_text().partition("## Kinds")[2].splitlines() if line.startswith("| `")
    ]
    named = {kind for row in rows for kind in re.findall(r"`([a-z.]+)`", row)}
    # Of damage there are two shapes; it is shown as it stands.
    assert named == WORDS.keys() | {"log.damaged"}


@pytest.mark.parametrize("kind", WORDS)
def test_a_kind_is_told_in_words_or_where_fields_are_missing_as_it_stands(kind: str) -> None:
    names = {name for _, name, _, _ in Formatter().parse(WORDS[kind]) if name}
    text = said(kind, **dict.fromkeys(names, "{0}\x1b"))
    assert kind not in text or not names
    assert text.count("{0}\\x1b") == len(names)
    assert f"  {kind} other='x'" in said(kind, other="x")


def test_a_refusal_shows_what_was_wished() -> None:
    text = said("denied", operation="sign", rule="default", reason="no rule", key="n/a", context="rm -rf\n")
    assert text.endswith("sign was refused: no rule (rule default) (key='n/a' context='rm -rf\\n')")
