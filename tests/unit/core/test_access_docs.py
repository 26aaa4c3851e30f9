"""docs/access.md is held against the code: its example, its tables of keys, operations and selectors."""

from __future__ import annotations

import re
from pathlib import Path

from agent.core.access import OPERATIONS, Rules, Who, Wish
from agent.core.accessparse import KEYS, USES, WHO, Accounts
from agent.core.accessrule import APPLIES

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "access.md").read_text()
ACCOUNTS = Accounts({"shop": 900, "root": 0}.get, {"audit": 901}.get)


def rows(head: str) -> list[list[str]]:
    """Cells of the table that begins with this row."""
    text = PAGE[PAGE.index(head) :].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_example_does_what_it_says() -> None:
    example = "\n".join(line[4:] for line in PAGE.splitlines() if line.startswith("    ") or not line)
    rules = Rules.parse({"10-shop.toml": example[: example.index("\n\n\n")]}, accounts=ACCOUNTS)
    assert [rule.name for rule in rules.rules] == ["shop", "auditors-read", "no-root-from-containers"]
    shop, auditor = Who(900, 900, unit="shop.service"), Who(5, 5, frozenset({901}))
    assert rules.decide(shop, Wish("sign", "receipts")).rule == "shop"
    assert rules.namespace(shop) == "shop"
    assert not rules.decide(Who(900, 900), Wish("sign", "receipts")).allowed
    assert rules.decide(auditor, Wish("status")).allowed
    assert not rules.decide(auditor, Wish("sign")).allowed
    assert rules.decide(Who(0, 0), Wish("status")).allowed
    assert not rules.decide(Who(0, 0, container="a" * 64), Wish("status")).allowed


def test_operations_and_their_selectors() -> None:
    found = {words(row[0])[0]: frozenset(words(row[2])) for row in rows("| operation | request |")}
    assert found == APPLIES
    assert tuple(found) == OPERATIONS


def test_keys_of_a_rule() -> None:
    table = rows("| key | | |")
    assert sorted(key for row in table for key in words(row[0])) == sorted(KEYS)
    (uses,) = (words(row[2]) for row in table if "uses" in words(row[0]))
    assert tuple(uses) == USES


def test_selectors_of_callers() -> None:
    assert tuple(words(row[0])[0] for row in rows("| selector | matches |")) == WHO
