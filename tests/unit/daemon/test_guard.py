"""The guard: what a denied caller reads and who else is told, exited peers, and policies that change or break."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from agent.core.access import Decision, Members, Rules, Who, Wish
from agent.core.errors import ConfigError, Denied
from agent.daemon import guard as guards
from agent.daemon.guard import Guard, who_of
from agent.daemon.peers import Caller, Peer, identify
from tests.support.access import policy, rule

SIGN = Wish("sign")


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Ourselves, under another name."""
    ours, theirs = socket.socketpair()
    with ours, theirs, identify(ours) as found:
        found.caller = replace(found.caller, uid=1000, gid=1000, groups=(50,), unit="web.service", container="")
        yield found


def loading(*found: Rules | ConfigError) -> Callable[[], Rules]:
    rest = iter(found)

    def load() -> Rules:
        one = next(rest)
        if isinstance(one, ConfigError):
            raise one
        return one

    return load


def test_the_decision_that_allows_it(peer: Peer) -> None:
    guard = Guard(lambda: policy(rule(namespace="shop")))
    decision = guard.require(peer, SIGN)
    assert (decision.allowed, decision.rule, decision.namespace) == (True, "r", "shop")
    assert guard.require(peer, SIGN) == decision
    assert guard.permits(peer.caller)
    assert guard.namespace(peer.caller) == "shop"
    assert not guard.permits(replace(peer.caller, uid=1001))


def test_a_refusal_names_the_rule_and_is_told(peer: Peer) -> None:
    told: list[tuple[Caller, Wish, Decision]] = []
    guard = Guard(lambda: policy(rule("no-web", "deny", who={"unit": "web.service"}), rule()))
    guard.on_denied = lambda *what: told.append(what)
    wish = Wish("sign", "shop/x")
    for _ in range(2):
        with pytest.raises(Denied, match=r"sign with shop/x is refused to uid 1000, unit web\.service: rule no-web in"):
            guard.require(peer, wish)
    assert [(caller.uid, asked, decision.rule) for caller, asked, decision in told] == [(1000, wish, "no-web")] * 2
    assert not guard.decide(peer.caller, wish).allowed
    assert len(told) == 2, "asking is no denial"


def test_the_code_and_what_to_do(peer: Peer) -> None:
    with pytest.raises(Denied) as caught:
        Guard(Rules).require(peer, SIGN)
    assert caught.value.code == "denied.policy"
    assert "policy explain" in caught.value.hint


def test_an_exited_peer_is_refused_whatever_the_policy_says(peer: Peer) -> None:
    guard = Guard(lambda: policy(rule()))
    told: list[Wish] = []
    guard.on_denied = lambda _caller, wish, _decision: told.append(wish)
    peer.close()
    with pytest.raises(Denied, match="exited") as caught:
        guard.require(peer, SIGN)
    assert caught.value.code == "denied.peer"
    assert told == []


def test_a_broken_policy_at_start_is_an_error() -> None:
    with pytest.raises(ConfigError, match="broken"):
        Guard(loading(ConfigError("broken")))


def test_a_broken_one_later_keeps_the_old_and_is_noted(peer: Peer) -> None:
    closed = policy(rule("no", "deny"))
    guard = Guard(loading(policy(rule()), ConfigError("x.toml: broken"), closed))
    assert guard.require(peer, SIGN).rule == "r"
    with pytest.raises(ConfigError):
        guard.reload()
    assert guard.require(peer, SIGN).rule == "r"
    assert list(guard.notes) == ["access policy: the old rules stay in force: x.toml: broken"]
    guard.reload()
    assert list(guard.notes) == []
    # What was decided under the old rules is forgotten.
    assert guard.decide(peer.caller, SIGN).rule == "no"


def test_notes_are_the_policy_s() -> None:
    assert list(Guard(lambda: Rules(notes=("mend this",))).notes) == ["mend this"]


def test_memory_is_bounded_and_changes_no_decision(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "MAX_REMEMBERED", 4)
    asked = 0
    rules = policy(rule(contexts="even*"))

    class Counting(Rules):
        def decide(self, caller: Who, wish: Wish) -> Decision:
            nonlocal asked
            asked += 1
            return rules.decide(caller, wish)

    guard = Guard(Counting)
    for number in [*range(10), *range(10), 9, 9]:
        context = f"{'odd' if number % 2 else 'even'}-{number}"
        assert guard.decide(peer.caller, Wish("sign", context=context)).allowed == (number % 2 == 0)
    assert asked == 20


def test_each_connection_is_judged_by_itself(peer: Peer) -> None:
    guard = Guard(lambda: policy(rule(who={"group": "staff"})))
    assert guard.decide(peer.caller, SIGN).allowed
    for other in (
        replace(peer.caller, groups=()),
        replace(peer.caller, groups=(), groups_unknown=True),
        replace(peer.caller, groups=(51,), unit="staff"),
    ):
        assert not guard.decide(other, SIGN).allowed
    boxed = replace(peer.caller, container="a" * 64)
    assert who_of(boxed).container == boxed.container
    # The process number is not part of it.
    assert who_of(peer.caller) == who_of(replace(peer.caller, pid=1))


def test_without_rules_members_of_the_configuration(peer: Peer) -> None:
    guard = Guard(lambda: Rules(members=Members(gids=frozenset({50}))))
    assert guard.require(peer, Wish("keys.create", "web")).namespace == "uid-1000"
