"""docs/ssh.md holds against the code: its rules, its numbers, its names."""

from __future__ import annotations

import re
from pathlib import Path

from agent.core.access import Rules, Who, Wish
from agent.core.accessparse import Accounts
from agent.core.sshagent import MAX_MESSAGE, QUERY, SESSION_BIND
from agent.core.sshsig import LOGIN, TEXT_BYTES
from agent.core.sshwire import NAMES
from agent.daemon.admission import FIRST_SECONDS, MAX_EACH
from agent.daemon.sshapi import FORM
from agent.daemon.sshfront import IDLE_SECONDS, STALL_SECONDS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "ssh.md").read_text()
CI = 1000


def test_its_rules_do_what_it_says() -> None:
    lines = [line[4:] for line in PAGE.splitlines() if line.startswith("    ") and ("[[" in line or " = " in line)]
    text = "\n".join(lines)
    rules = Rules.parse({"10.toml": text}, accounts=Accounts({"ci": CI}.get, lambda _: None))
    assert [rule.name for rule in rules.rules] == ["deploy", "ci-sees-its-key", "ci"]
    ci, unit = Who(CI, CI), Who(2000, 2000, unit="deploy.service")

    def may(who: Who, context: str, key: str) -> bool:
        return rules.decide(who, Wish("sign", key, use="ssh", format="ssh", context=context)).allowed

    def sees(who: Who, key: str) -> bool:
        return rules.decide(who, Wish("keys.list", key)).allowed

    assert (sees(ci, "shop/ci"), sees(ci, "shop/deploy"), sees(unit, "shop/deploy")) == (True, False, True)
    assert may(ci, "git", "shop/ci")
    assert may(ci, LOGIN, "shop/ci")
    assert not may(ci, "file", "shop/ci")
    assert not may(ci, "git", "shop/deploy")
    assert may(unit, "file", "shop/deploy")


def test_its_numbers_and_names() -> None:
    assert re.search(rf"{MAX_MESSAGE >> 10} KiB", PAGE)
    assert FIRST_SECONDS == STALL_SECONDS
    for words in (
        f"complete {STALL_SECONDS:.0f} seconds after",
        f"idle for {IDLE_SECONDS:.0f}",
        f"{MAX_EACH} for a user",
        f"at most {TEXT_BYTES} bytes, not `{LOGIN}`",
        f"rule `{FORM}`",
        f"`{QUERY}` and `{SESSION_BIND}`",
        *NAMES.values(),
    ):
        assert words in PAGE
