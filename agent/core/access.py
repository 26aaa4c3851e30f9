"""Who may do what (docs/access.md): the first rule that matches decides, and where none does, root may and nobody else.

Pure: text in, decisions out. Rules come from files sorted by name. Without a single rule, the users and groups of
``[daemon]`` may use the agent's own key, keys in a namespace of their own, and everything else but secrets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from agent.core import accessparse
from agent.core.accessparse import NO_ACCOUNTS, RELEASING, Accounts
from agent.core.accessrule import OPERATIONS, Rule, Who, Wish

__all__ = ["OPERATIONS", "Decision", "Explanation", "Members", "Passed", "Rule", "Rules", "Who", "Wish"]

DEFAULT = "default"
"""Named as the deciding rule where no rule decides."""
ROOT = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """``rule`` is the deciding rule's name or "default"; ``namespace`` is where the caller's own keys are."""

    allowed: bool
    rule: str
    reason: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Passed:
    """A rule that did not decide: the first selector that did not match, and its values as the file has them."""

    rule: str
    source: str
    selector: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, the file of its rule ("" for the default), and the rules before it."""

    decision: Decision
    source: str
    passed: tuple[Passed, ...]


@dataclass(frozen=True, slots=True)
class Members:
    """Users and groups of ``[daemon]`` by id: they count only where there is no rule."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def has(self, who: Who) -> bool:
        """True for one of the users, or a member of one of the groups."""
        return who.uid in self.uids or who.gid in self.gids or not self.gids.isdisjoint(who.groups)


@dataclass(frozen=True, slots=True)
class Rules:
    """The whole policy. ``notes`` are what an admin should mend."""

    rules: tuple[Rule, ...] = ()
    members: Members = Members()
    notes: tuple[str, ...] = ()

    @classmethod
    def parse(
        cls, files: Mapping[str, str], *, accounts: Accounts = NO_ACCOUNTS, members: Members | None = None
    ) -> Self:
        """From the files' names and TOML texts. Raises ConfigError naming file, rule and key."""
        rules, notes = accessparse.parse(files, accounts)
        return cls(rules, members or Members(), notes)

    def decide(self, caller: Who, wish: Wish) -> Decision:
        """Never raises: what no rule covers is refused to all but root."""
        namespace = self.namespace(caller)
        for rule in self.rules:
            if not rule.miss(caller, wish, namespace):
                return _by(rule, wish, namespace)
        return self._default(caller, wish, namespace)

    def explain(self, caller: Who, wish: Wish) -> Explanation:
        """``decide``, with the rules that were passed over."""
        namespace = self.namespace(caller)
        passed: list[Passed] = []
        for rule in self.rules:
            selector = rule.miss(caller, wish, namespace)
            if not selector:
                return Explanation(_by(rule, wish, namespace), rule.source, tuple(passed))
            passed.append(Passed(rule.name, rule.source, selector, rule.shown(selector)))
        return Explanation(self._default(caller, wish, namespace), "", tuple(passed))

    def namespace(self, caller: Who) -> str:
        """Of the first rule that names the caller and has a namespace, else the caller's own."""
        found = (rule.namespace for rule in self._naming(caller) if rule.namespace)
        return next(found, caller.own_namespace)

    def admits(self, caller: Who) -> bool:
        """True when there may be something that the caller is allowed: worth listening to."""
        if caller.uid == ROOT or (not self.rules and self.members.has(caller)):
            return True
        return any(rule.allow for rule in self._naming(caller))

    def _naming(self, caller: Who) -> Iterator[Rule]:
        return (rule for rule in self.rules if not rule.stranger(caller))

    def _default(self, caller: Who, wish: Wish, namespace: str) -> Decision:
        if caller.uid == ROOT:
            return Decision(True, DEFAULT, "root is inside the boundary, and no rule says otherwise", namespace)
        if self.rules:
            return Decision(False, DEFAULT, f"no rule allows {wish.operation} to this caller", namespace)
        if not self.members.has(caller):
            reason = "there are no rules, and [daemon] allow_users and allow_groups do not name this caller"
            return Decision(False, DEFAULT, reason, namespace)
        if wish.operation == RELEASING:
            reason = "without rules, secrets are root's; a rule says who else gets which"
            return Decision(False, DEFAULT, reason, namespace)
        key = wish.full_key(namespace)
        if key and not key.startswith(f"{namespace}/"):
            return Decision(False, DEFAULT, f"without rules, keys outside {namespace}/ are root's to give", namespace)
        return Decision(True, DEFAULT, "[daemon] allow_users or allow_groups names this caller", namespace)


def _by(rule: Rule, wish: Wish, namespace: str) -> Decision:
    verb = "allows" if rule.allow else "denies"
    return Decision(rule.allow, rule.name, f"rule {rule.name} in {rule.source} {verb} {wish.operation}", namespace)
