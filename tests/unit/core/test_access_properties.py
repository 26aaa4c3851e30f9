"""What holds for any access policy, any caller and any wish."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.access import OPERATIONS, Who, Wish
from agent.core.accessparse import FORMATS, USES
from agent.core.accessrule import APPLIES, matches
from tests.support.access import BOX, OTHER_BOX, ROOT, policy, rule


def names(*choices: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(choices), min_size=1, max_size=3, unique=True)


WHO = st.dictionaries(st.sampled_from(["user", "group", "unit", "container"]), st.none(), min_size=1).flatmap(
    lambda chosen: st.fixed_dictionaries(
        {
            name: {
                "user": names("0", "1000", "1001"),
                "group": names("50", "60", "1000"),
                "unit": names("web.service", "db.service"),
                "container": names("*", BOX, OTHER_BOX),
            }[name]
            for name in chosen
        }
    )
)
CALLERS = st.builds(
    Who,
    st.sampled_from([0, 1000, 1001, 1002]),
    st.sampled_from([0, 50, 1000]),
    st.frozensets(st.sampled_from([50, 60, 70])),
    st.sampled_from(["", "web.service", "db.service"]),
    st.sampled_from(["", BOX, OTHER_BOX]),
    st.booleans(),
)
WISHES = st.builds(
    Wish,
    st.sampled_from(OPERATIONS),
    st.sampled_from(["", "web", "shop/web", "uid-1000/web", "uid-1001/x"]),
    st.sampled_from(["", *USES]),
    st.sampled_from(["", *FORMATS]),
    st.sampled_from(["", "orders", "orders/eu"]),
    st.sampled_from(["", "rp"]),
    st.sampled_from(["", "db", "db-2"]),
    st.booleans(),
)
WHAT: dict[str, st.SearchStrategy[Any]] = {
    "keys": names("*", "agent", "shop/*", "uid-1001/x"),
    "uses": names(*USES),
    "formats": names(*FORMATS),
    "contexts": names("", "orders*", "orders/eu"),
    "audiences": names("rp", "r*"),
    "secrets": names("*", "db", "db-*"),
    "persistent": st.booleans(),
}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    operations = draw(names(*OPERATIONS))
    useful = sorted(frozenset.intersection(*(APPLIES[each] for each in operations)))
    chosen = draw(st.lists(st.sampled_from(useful), unique=True)) if useful else []
    table = rule("", draw(st.sampled_from(["allow", "deny"])), who=draw(WHO), operations=operations)
    if table["effect"] == "allow" and draw(st.booleans()):
        table["namespace"] = draw(st.sampled_from(["shop", "bank"]))
    found = {**table, **{name: draw(WHAT[name]) for name in chosen}}
    return allowing(found) if table["effect"] == "allow" else found


def allowing(table: dict[str, Any]) -> dict[str, Any]:
    """The rule with the effect "allow": with ``secret`` it must name secrets, which say nothing about the rest."""
    found = {**table, "effect": "allow"}
    if "secret" in table["operations"] and "secrets" not in table:
        found = {name: one for name, one in found.items() if name not in APPLIES["sign"]}
        found |= {"operations": ["secret"], "secrets": ["db-*"]}
    return found


def numbered(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**table, "name": f"r{index}"} for index, table in enumerate(found)]


TABLES = st.lists(tables(), max_size=5).map(numbered)


@settings(deadline=None)
@given(TABLES, CALLERS, WISHES)
def test_the_first_rule_that_would_decide_alone_decides(found: list[dict[str, Any]], who: Who, wish: Wish) -> None:
    whole = policy(*found)
    full = replace(wish, key=wish.full_key(whole.namespace(who)))
    decision = whole.decide(who, wish)
    # Each rule by itself, in the namespace that the whole policy gives the caller.
    alone = [each.name for each in whole.rules if not each.miss(who, full, whole.namespace(who))]
    assert decision.rule == (alone[0] if alone else "default")
    assert decision == whole.explain(who, wish).decision
    assert decision == whole.decide(who, full)
    if not alone:
        assert decision.allowed == (who.uid == ROOT)
    if decision.allowed:
        assert whole.admits(who)


@settings(deadline=None)
@given(TABLES, tables(), st.integers(0, 5), CALLERS, WISHES)
def test_another_allow_rule_lets_in_nobody_that_it_does_not_name(
    found: list[dict[str, Any]], more: dict[str, Any], place: int, who: Who, wish: Wish
) -> None:
    more = allowing({**more, "name": "more"})
    before, after = policy(*found), policy(*found[:place], more, *found[place:])
    (added,) = (each for each in after.rules if each.name == "more")
    if added.stranger(who) and found:
        assert after.decide(who, wish) == before.decide(who, wish)
        assert after.admits(who) == before.admits(who)


@settings(deadline=None)
@given(TABLES, tables(), CALLERS, WISHES)
def test_a_deny_rule_in_front_allows_nothing(
    found: list[dict[str, Any]], more: dict[str, Any], who: Who, wish: Wish
) -> None:
    more = {key: one for key, one in {**more, "name": "more", "effect": "deny"}.items() if key != "namespace"}
    if policy(more, *found).decide(who, wish).allowed:
        assert policy(*found).decide(who, wish).allowed


@settings(deadline=None)
@given(st.lists(st.text("ab*/", max_size=4).filter(lambda one: "*" not in one[:-1])), st.text("ab*/", max_size=5))
def test_patterns(patterns: list[str], given_text: str) -> None:
    expected = any(
        given_text[: len(one) - 1] == one[:-1] if one.endswith("*") else given_text == one for one in patterns
    )
    assert matches(tuple(patterns), given_text) == expected
