"""Access policies for tests: rules as tables, written as TOML and read back by the code under test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.core.access import Members, Rules, Who
from agent.core.accessparse import Accounts

ALICE, BOB, ROOT = 1000, 1001, 0
STAFF = 50
BOX, OTHER_BOX = "a" * 64, "b" * 64
ACCOUNTS = Accounts({"alice": ALICE, "bob": BOB, "root": ROOT}.get, {"staff": STAFF}.get)
WEB = Who(ALICE, ALICE, frozenset({STAFF}), "web.service", BOX)


def rule(name: str = "r", effect: str = "allow", **more: Any) -> dict[str, Any]:
    return {"name": name, "effect": effect, "who": {"user": "alice"}, "operations": ["sign"], **more}


def value(given: Any) -> str:
    """As TOML."""
    if isinstance(given, Mapping):
        return "{" + ", ".join(f"{key} = {value(one)}" for key, one in given.items()) + "}"
    if isinstance(given, list | tuple):
        return "[" + ", ".join(map(value, given)) + "]"
    if isinstance(given, bool):
        return "true" if given else "false"
    return repr(given) if isinstance(given, int) else '"' + given.replace("\\", "\\\\").replace('"', '\\"') + '"'


def text(*rules: Mapping[str, Any]) -> str:
    return "\n".join("\n".join(["[[rule]]", *(f"{key} = {value(one)}" for key, one in each.items())]) for each in rules)


def policy(*rules: Mapping[str, Any], members: Members | None = None) -> Rules:
    return Rules.parse({"10.toml": text(*rules)}, accounts=ACCOUNTS, members=members)


def put(folder: Path, *rules: Mapping[str, Any], more: str = "") -> None:
    """The whole policy, as one file."""
    (folder / "policy.d").mkdir(mode=0o755, exist_ok=True)
    path = folder / "policy.d" / "10.toml"
    path.write_text(text(*rules) + more)
    path.chmod(0o644)
