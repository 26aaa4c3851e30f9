"""Rules about keys that stay over restarts: an application may have keys of this boot, and no others."""

from __future__ import annotations

import pytest

from agent.core.access import Wish
from tests.support.access import WEB, policy, rule

BRIEF, LASTING = Wish("keys.create", "a"), Wish("keys.create", "a", persistent=True)


@pytest.mark.parametrize(
    ("effect", "persistent", "brief", "lasting"),
    [
        ("allow", {}, True, True),
        ("allow", {"persistent": False}, True, False),
        ("allow", {"persistent": True}, False, True),
        ("deny", {}, False, False),
        ("deny", {"persistent": False}, False, True),
        ("deny", {"persistent": True}, True, False),
    ],
)
def test_which_keys_may_be_made(effect: str, persistent: dict[str, bool], brief: bool, lasting: bool) -> None:
    rules = [rule("first", effect, operations="keys.create", **persistent)]
    if effect == "deny":
        rules.append(rule("rest", operations="keys.*"))
    found = policy(*rules)
    assert (found.decide(WEB, BRIEF).allowed, found.decide(WEB, LASTING).allowed) == (brief, lasting)


def test_what_did_not_match_is_said_as_the_file_has_it() -> None:
    found = policy(rule("brief", operations="keys.create", persistent=False)).explain(WEB, LASTING)
    assert [(one.selector, one.values) for one in found.passed] == [("persistent", ("false",))]
    assert "no rule allows keys.create" in found.decision.reason


def test_a_persistent_key_is_used_and_destroyed_as_any_other() -> None:
    """A rule about making them needs one of its own, and takes nothing from the others."""
    found = policy(
        rule("no", "deny", operations="keys.create", persistent=True), rule("yes", operations=["keys.*", "sign"])
    )
    for operation in ("keys.list", "keys.rotate", "keys.destroy", "sign"):
        assert found.decide(WEB, Wish(operation, "a")).rule == "yes"
    assert found.decide(WEB, LASTING).rule == "no"
