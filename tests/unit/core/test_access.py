"""The access policy: what a rule names, what it covers, and who comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agent.core.access import OPERATIONS, Decision, Members, Rules, Who, Wish
from agent.core.accessrule import APPLIES, HIDDEN
from agent.core.errors import UsageError
from tests.support.access import ACCOUNTS, ALICE, BOB, BOX, OTHER_BOX, ROOT, STAFF, WEB, policy, rule, text


def verdict(wish: Wish, who: Who, *rules: Mapping[str, Any]) -> tuple[bool, str]:
    found = policy(*rules).decide(who, wish)
    return found.allowed, found.rule


@pytest.mark.parametrize(
    ("who", "named"),
    [
        ({"user": "alice"}, True),
        ({"user": ["bob", "1000"]}, True),
        ({"user": "bob"}, False),
        ({"group": "staff"}, True),
        ({"group": "1000"}, True),
        ({"group": "1001"}, False),
        ({"unit": "web.service"}, True),
        ({"unit": ["other.service", "web.service"]}, True),
        ({"unit": "we.service"}, False),
        ({"container": BOX}, True),
        ({"container": "*"}, True),
        ({"container": OTHER_BOX}, False),
        # All that are given must hold.
        ({"user": "alice", "unit": "web.service", "group": "staff", "container": BOX}, True),
        ({"user": "alice", "unit": "other.service"}, False),
        ({"user": "bob", "unit": "web.service"}, False),
        ({"user": "alice", "container": OTHER_BOX}, False),
    ],
)
def test_whom_a_rule_names(who: dict[str, Any], named: bool) -> None:
    assert verdict(Wish("sign"), WEB, rule(who=who)) == ((True, "r") if named else (False, "default"))
    # A deny rule names the same callers: then what comes after it does not count.
    after = rule("after", who={"user": "alice"})
    denied = verdict(Wish("sign"), WEB, rule("r", "deny", who=who), after)
    assert denied == ((False, "r") if named else (True, "after"))


def test_a_unit_is_its_whole_name() -> None:
    for unit in ("web.service.service", "xweb.service", "Web.service"):
        assert not policy(rule(who={"unit": "web.service"})).admits(Who(ALICE, ALICE, unit=unit))


def test_nothing_matches_a_caller_without_unit_or_container() -> None:
    bare = Who(ALICE, ALICE)
    assert not policy(rule(who={"unit": "web.service"}), rule("b", who={"container": "*"})).admits(bare)


def test_groups_too_many_to_read_count_against_the_caller_only() -> None:
    crowd = Who(ALICE, ALICE, groups_known=False)
    assert verdict(Wish("sign"), crowd, rule(who={"group": "staff"})) == (False, "default")
    denied = rule("no", "deny", who={"group": "staff"})
    assert verdict(Wish("sign"), crowd, denied, rule()) == (False, "no")
    assert verdict(Wish("sign"), Who(ALICE, ALICE), denied, rule()) == (True, "r")


@pytest.mark.parametrize("who", [{"unit": "web.service"}, {"container": "*"}, {"container": BOX}])
def test_a_place_that_can_t_be_seen_counts_against_the_caller_only(who: dict[str, str]) -> None:
    unseen = Who(ALICE, ALICE, unit=HIDDEN)
    assert verdict(Wish("sign"), unseen, rule(who=who)) == (False, "default")
    assert verdict(Wish("sign"), unseen, rule("no", "deny", who=who), rule()) == (False, "no")
    assert verdict(Wish("sign"), unseen, rule("no", "deny", who={**who, "user": "bob"}), rule()) == (True, "r")
    assert "unit not to be seen" in str(unseen)


SIGN = Wish("sign", "shop/receipts", "jws", "jws", "orders/eu", "https://rp.example")


@pytest.mark.parametrize(
    ("selectors", "covered"),
    [
        ({"keys": ["shop/receipts"]}, True),
        ({"keys": "shop/*"}, True),
        ({"keys": "shop/rec*"}, True),
        ({"keys": "*"}, True),
        ({"keys": ["agent", "shop/refunds"]}, False),
        ({"keys": "sho/*"}, False),
        ({"uses": ["raw", "jws"], "keys": "*"}, True),
        ({"uses": "raw", "keys": "*"}, False),
        ({"formats": "jws", "keys": "*"}, True),
        ({"formats": "cose", "keys": "*"}, False),
        ({"contexts": "orders/*", "keys": "*"}, True),
        ({"contexts": "orders/eu", "keys": "*"}, True),
        ({"contexts": "orders/", "keys": "*"}, False),
        ({"contexts": "", "keys": "*"}, False),
        ({"audiences": "https://rp.example", "keys": "*"}, True),
        ({"audiences": "https://other.example", "keys": "*"}, False),
        # Without keys: the agent's own key and the caller's.
        ({}, False),
        ({"namespace": "shop"}, True),
        ({"namespace": "sho"}, False),
    ],
)
def test_what_a_rule_covers(selectors: dict[str, Any], covered: bool) -> None:
    assert verdict(SIGN, WEB, rule(**selectors))[0] == covered


def test_keys_of_one_s_own() -> None:
    rules = policy(rule(operations=["sign", "keys.*"]))
    for key in ("", "web", f"uid-{ALICE}/web"):
        assert rules.decide(WEB, Wish("sign", key)).allowed
    for key in (f"uid-{BOB}/web", f"uid-{ALICE}0/web", "shop/web"):
        assert not rules.decide(WEB, Wish("sign", key)).allowed
        assert not rules.decide(WEB, Wish("keys.destroy", key)).allowed
    assert rules.decide(WEB, Wish("sign")).namespace == f"uid-{ALICE}"


def test_a_bare_name_is_in_the_caller_s_namespace_and_denied_there() -> None:
    denied = rule("no", "deny", keys="shop/root-*")
    rules = policy(denied, rule(namespace="shop"), rule("late", namespace="other"))
    assert rules.namespace(WEB) == "shop"
    assert rules.decide(WEB, Wish("sign", "receipts")).rule == "r"
    assert rules.decide(WEB, Wish("sign", "root-1")).rule == "no"
    assert rules.decide(WEB, Wish("sign", "shop/root-1")).rule == "no"


def test_a_deny_rule_without_keys_is_about_all_of_them() -> None:
    rules = policy(rule("no", "deny"), rule(keys="*"))
    assert [rules.decide(WEB, Wish("sign", key)).rule for key in ("", "web", "shop/x")] == ["no", "no", "no"]


def test_what_a_wish_leaves_open_counts_as_denied() -> None:
    named = rule("no", "deny", uses="raw", formats="raw")
    assert verdict(Wish("sign"), WEB, named, rule()) == (False, "no")
    assert verdict(Wish("sign", use="jws"), WEB, named, rule()) == (True, "r")
    assert verdict(Wish("sign"), WEB, rule(uses="raw")) == (False, "default")
    # An empty context is a context.
    assert verdict(Wish("sign"), WEB, rule(contexts="")) == (True, "r")


def test_the_list_of_keys() -> None:
    assert verdict(Wish("keys.list"), WEB, rule(operations="keys.list", keys="shop/*")) == (True, "r")
    assert verdict(Wish("keys.list", "other/x"), WEB, rule(operations="keys.list", keys="shop/*"))[0] is False
    some = rule("no", "deny", operations="keys.list", keys="shop/*")
    allowed = rule(operations="keys.list", keys="*")
    assert verdict(Wish("keys.list"), WEB, some, allowed) == (True, "r")
    assert verdict(Wish("keys.list", "shop/x"), WEB, some, allowed) == (False, "no")
    assert verdict(Wish("keys.list"), WEB, rule("no", "deny", operations="keys.list"), allowed) == (False, "no")


READ = Wish("secret", secret="db-password")


@pytest.mark.parametrize(
    ("secrets", "covered"),
    [
        ("db-password", True),
        (["api", "db-password"], True),
        ("db-*", True),
        ("*", True),
        ("db-", False),
        ("db", False),
        ("db-password2", False),
        ("db-password2*", False),
    ],
)
def test_secrets_of_a_rule(secrets: Any, covered: bool) -> None:
    given = rule(operations="secret", secrets=secrets)
    assert verdict(READ, WEB, given) == ((True, "r") if covered else (False, "default"))
    denied = rule("no", "deny", operations="secret", secrets=secrets)
    every = rule("all", operations="secret", secrets="*")
    assert verdict(READ, WEB, denied, every) == ((False, "no") if covered else (True, "all"))


def test_no_secret_is_given_by_a_rule_that_names_none() -> None:
    assert verdict(READ, WEB, rule(operations="*")) == (False, "default")
    assert verdict(Wish("seal"), WEB, rule(operations="*")) == (True, "r")
    every = rule("all", operations="secret", secrets="*")
    assert verdict(READ, WEB, rule("no", "deny", operations="*"), every) == (False, "no")
    assert verdict(READ, WEB, rule("no", "deny", operations="secret"), every) == (False, "no")
    assert verdict(READ, Who(ROOT, ROOT)) == (True, "default")


def test_the_list_of_secrets() -> None:
    some = rule(operations="secret", secrets="api")
    assert verdict(Wish("secret"), WEB, some) == (True, "r")
    assert verdict(Wish("secret"), WEB, rule(operations="sign")) == (False, "default")
    one, every = (rule("no", "deny", operations="secret", secrets=secrets) for secrets in ("api", "*"))
    assert verdict(Wish("secret"), WEB, one, some) == (True, "r")
    assert verdict(Wish("secret"), WEB, every, some) == (False, "no")
    assert verdict(Wish("secret"), WEB, rule("no", "deny", operations="secret"), some) == (False, "no")


def test_contexts_of_sealed_data() -> None:
    rules = policy(rule(operations=["seal", "unseal"], contexts=["backup/*", ""]))
    for operation in ("seal", "unseal"):
        assert rules.decide(WEB, Wish(operation, context="backup/1")).allowed
        assert rules.decide(WEB, Wish(operation)).allowed
        assert not rules.decide(WEB, Wish(operation, context="other")).allowed
    assert not policy(rule(operations="seal")).decide(WEB, Wish("unseal")).allowed


def test_first_match_decides_in_the_order_of_names() -> None:
    files = {
        "20.toml": text(rule("late", "deny")),
        "10.toml": text(rule("bobs", who={"user": "bob"}), rule("first"), rule("second", "deny")),
    }
    found = Rules.parse(files, accounts=ACCOUNTS)
    assert [each.name for each in found.rules] == ["bobs", "first", "second", "late"]
    assert found.decide(WEB, Wish("sign")) == Decision(
        True, "first", "rule first in 10.toml allows sign", f"uid-{ALICE}"
    )


def test_an_explanation_is_the_decision_and_says_what_did_not_match() -> None:
    rules = policy(
        rule("ops", operations=["status"]),
        rule("who", who={"user": ["bob", "1002"], "unit": "web.service"}),
        rule("keys", keys=["shop/x", "shop/y*"]),
        rule("own"),
        rule("no", "deny"),
    )
    found = rules.explain(WEB, Wish("sign", "shop/z"))
    assert found.decision == rules.decide(WEB, Wish("sign", "shop/z"))
    assert (found.decision.rule, found.source) == ("no", "10.toml")
    assert [(each.rule, each.selector, each.values) for each in found.passed] == [
        ("ops", "operations", ("status",)),
        ("who", "who.user", ("bob", "1002")),
        ("keys", "keys", ("shop/x", "shop/y*")),
        ("own", "keys", ()),
    ]
    nothing = rules.explain(Who(5, 5), Wish("challenge"))
    assert (nothing.decision.rule, nothing.source, len(nothing.passed)) == ("default", "", 5)


def test_whom_rules_only_deny_is_not_listened_to() -> None:
    rules = policy(rule("no", "deny"), rule("bobs", who={"user": "bob"}))
    assert not rules.admits(WEB)
    assert rules.admits(Who(BOB, BOB))


def test_root_is_allowed_unless_a_rule_says_otherwise() -> None:
    root, boxed = Who(ROOT, ROOT), Who(ROOT, ROOT, container=BOX)
    assert Rules().decide(root, Wish("keys.destroy", "any/key")).allowed
    no = rule("no", "deny", who={"user": "root", "container": "*"}, operations="*")
    for operation in OPERATIONS:
        assert verdict(Wish(operation), root, no) == (True, "default")
        assert verdict(Wish(operation), boxed, no) == (False, "no")
    assert policy(no).admits(boxed)


MEMBERS = Members(frozenset({ALICE}), frozenset({STAFF}))


@pytest.mark.parametrize("who", [Who(ALICE, 7), Who(7, STAFF), Who(7, 7, frozenset({STAFF}))], ids=str)
def test_without_rules_the_configuration_s_users_and_groups(who: Who) -> None:
    rules = Rules.parse({"10.toml": "# nothing yet\n"}, accounts=ACCOUNTS, members=MEMBERS)
    assert rules.admits(who)
    for operation in OPERATIONS:
        assert rules.decide(who, Wish(operation)).allowed == (operation != "secret")
        assert not rules.decide(Who(7, 7), Wish(operation)).allowed
    assert not rules.decide(who, Wish("secret", secret="api")).allowed
    assert rules.decide(who, Wish("keys.create", "web")).allowed
    assert rules.decide(who, Wish("sign", f"uid-{who.uid}/web")).allowed
    assert not rules.decide(who, Wish("sign", "uid-5/web")).allowed
    assert not rules.admits(Who(7, 7))


def test_with_rules_they_do_not_count() -> None:
    rules = policy(rule(who={"user": "bob"}), members=MEMBERS)
    assert not rules.decide(Who(ALICE, ALICE), Wish("sign")).allowed
    assert not rules.admits(Who(ALICE, ALICE))


@pytest.mark.parametrize("key", ["a/b/c", "/a", "//"])
def test_a_wish_names_one_key(key: str) -> None:
    with pytest.raises(UsageError):
        Wish("sign", key)


def test_there_is_no_other_operation() -> None:
    with pytest.raises(UsageError, match="there is no operation"):
        Wish("quote")
    assert set(APPLIES) == set(OPERATIONS)
