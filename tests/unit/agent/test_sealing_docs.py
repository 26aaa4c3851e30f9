"""docs/sealing.md is held against the code: its examples, figures and field selection."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

from agent import sealing
from agent.core.access import Rules, Who, Wish
from agent.core.config import parse
from agent.daemon.allowance import EACH, TOTAL
from agent.daemon.quoter import DERIVED_FIELDS
from agent.daemon.released import PAUSES
from snp.guestmsg import FIELDS, ROOT_KEYS
from tests.unit.agent.test_config_sealing import TAS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "sealing.md").read_text()


def example(first: str) -> str:
    """The indented block that begins with this line."""
    lines = PAGE[PAGE.index(f"    {first}\n") :].splitlines()
    return "\n".join(line[4:] for line in takewhile(lambda line: not line or line.startswith("    "), lines))


def test_the_configuration_parses() -> None:
    config = parse(TAS + example("[sealing]"), "f")
    assert (config.sealing.root, [one.name for one in config.secrets]) == ("tas", ["db"])


def test_the_rule_does_what_it_says() -> None:
    rules = Rules.parse({"10.toml": example("[[rule]]")})
    assert rules.decide(Who(1, 1, unit="shop.service"), Wish("secret", secret="db")).allowed
    assert not rules.decide(Who(1, 1, unit="shop.service"), Wish("secret", secret="api")).allowed
    assert not rules.decide(Who(1, 1), Wish("secret", secret="db")).allowed


def test_figures() -> None:
    text = " ".join(PAGE.split())
    assert f"at most {sealing.MAX_BLOB:,} bytes" in text
    assert f"{EACH.burst} of one user at once, then one in {EACH.seconds:g} seconds" in text
    assert f"{TOTAL.burst} over all, then one a second" in text
    assert (TOTAL.seconds, PAUSES.base, PAUSES.cap) == (1.0, 2.0, 60.0)
    assert sealing.TYPE in text


def test_the_field_selection() -> None:
    bits = sum(1 << FIELDS[name] for name in DERIVED_FIELDS)
    assert f"ROOT_KEY_SELECT {ROOT_KEYS['vcek']}, GUEST_FIELD_SELECT 0b{bits:06b}" in PAGE
