"""Rules of the access policy as TOML: every key and value is checked, and what can't mean anything is refused.

Pure: names of users and groups are looked up by what the caller of this module gives. Refusals are ConfigError and
name file, rule and key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.core import checks
from agent.core.accessrule import AGENT_KEY, ANY, APPLIES, OPERATIONS, Rule
from agent.core.checks import At
from agent.core.errors import ConfigError

USES = ("bundle", "raw", "jws", "cose", "eat", "ssh")
"""Uses of keys that callers have (DESIGN.md, section 5)."""
FORMATS = USES
MAX_RULES = 1000
"""In all files together."""
RESERVED = "default"
RELEASING = "secret"
"""The operation that gives nothing by default."""
_MAX_VALUES = 256
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}/([A-Za-z0-9_.-]{1,64}|[A-Za-z0-9_.-]{0,63}\*)", re.ASCII)
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,240}\.(service|scope|socket|mount|swap)", re.ASCII)
_CONTAINER = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\*?|\*", re.ASCII)
_OWN = re.compile(r"uid-[0-9]+", re.ASCII)
_WHAT = ("keys", "uses", "formats", "contexts", "audiences", "secrets", "persistent")
KEYS = ("name", "effect", "who", "operations", *_WHAT, "namespace")
"""Of a rule."""
WHO = ("user", "group", "unit", "container")

Lookup = Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class Accounts:
    """How names become ids; None for a name that this machine does not know."""

    user: Lookup
    group: Lookup


def _nobody(_: str) -> int | None:
    return None


NO_ACCOUNTS = Accounts(_nobody, _nobody)
"""Decimal ids only."""


def parse(files: Mapping[str, str], accounts: Accounts) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """The rules of all files, sorted by the files' names, and notes on names that match nobody. Raises ConfigError."""
    rules: list[Rule] = []
    notes: list[str] = []
    for source in sorted(files):
        for index, table in enumerate(_tables(files[source], source)):
            rule = _Parser(At(source, f"rule[{index}]"), accounts, notes).rule(table)
            _require_new(rule, rules)
            rules.append(rule)
    return tuple(rules), tuple(notes)


def _tables(text: str, source: str) -> list[Any]:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not valid TOML: {str(error)[:300]}", code="config.syntax") from error
    checks.known(document, ("rule",), At(source, ""))
    tables = document.get("rule", [])
    if not isinstance(tables, list):
        raise At(source, "rule").wrong("an array of tables ([[rule]])", tables)
    return tables


def _require_new(rule: Rule, rules: list[Rule]) -> None:
    at = At(rule.source, f"rule {rule.name}.name")
    for other in rules:
        if other.name == rule.name:
            raise at.refuse(f"there is a rule of this name already, in {other.source}")
    if len(rules) >= MAX_RULES:
        raise at.refuse(f"is one rule more than the {MAX_RULES} that are allowed")


class _Parser:
    """One rule's table."""

    def __init__(self, at: At, accounts: Accounts, notes: list[str]) -> None:
        self._at = at
        self._accounts = accounts
        self._notes = notes
        self._written: dict[str, tuple[str, ...]] = {}

    def rule(self, table: Any) -> Rule:
        """Raises ConfigError."""
        if not isinstance(table, dict):
            raise self._at.wrong("a table", table)
        name = self._name(table)
        self._at = At(self._at.source, f"rule {name}")
        checks.known(table, KEYS, self._at)
        for key in ("effect", "who", "operations"):
            if key not in table:
                raise self._at.under(key).refuse("is required", code="config.missing")
        allow = checks.choice("allow", "deny")(table["effect"], self._at.under("effect")) == "allow"
        operations = self._operations(table["operations"], [key for key in _WHAT if key in table])
        self._require_secrets(table, allow=allow)
        who = self._who(table["who"], allow=allow)
        what = self._what(table)
        namespace = self._namespace(table, allow=allow)
        return Rule(name, self._at.source, allow, operations, **who, **what, namespace=namespace, written=self._written)

    def _name(self, table: Mapping[str, Any]) -> str:
        at = self._at.under("name")
        if "name" not in table:
            raise at.refuse("is required", code="config.missing")
        name = checks.name(table["name"], at)
        if name == RESERVED:
            raise at.refuse(f"{RESERVED} is what decides where no rule does")
        return name

    def _operations(self, value: Any, given: Iterable[str]) -> frozenset[str]:
        at = self._at.under("operations")
        words = self._values(value, at, checks.choice(*OPERATIONS, "keys.*", ANY))
        found = frozenset(one for word in words for one in OPERATIONS if one == word or _family(word, one))
        for selector in given:
            strangers = [one for one in OPERATIONS if one in found and selector not in APPLIES[one]]
            if strangers:
                raise self._at.under(selector).refuse(
                    f"says nothing about {', '.join(strangers)}", hint="make a rule of its own for those operations"
                )
        return found

    def _require_secrets(self, table: Mapping[str, Any], *, allow: bool) -> None:
        """A rule that allows ``secret`` by name and names none would allow nothing; one for ``*`` need not mean it."""
        if allow and "secrets" not in table and RELEASING in (table["operations"], *table["operations"]):
            raise self._at.under("secrets").refuse(
                "is required: no secret is given by default", hint='secrets = ["NAME"]', code="config.missing"
            )

    def _who(self, value: Any, *, allow: bool) -> dict[str, Any]:
        at = self._at.under("who")
        if not isinstance(value, dict):
            raise at.wrong("a table", value)
        checks.known(value, WHO, at)
        if not value:
            raise at.refuse("names nobody", hint=f"give one or more of: {', '.join(WHO)}")
        given = {name: self._given(name, one, at.under(name)) for name, one in value.items()}
        found: dict[str, Any] = {}
        if "user" in given:
            found["users"] = self._ids("user", given["user"], self._accounts.user, allow=allow)
        if "group" in given:
            found["groups"] = self._ids("group", given["group"], self._accounts.group, allow=allow)
        if "unit" in given:
            found["units"] = frozenset(given["unit"])
        if "container" in given:
            found["containers"] = frozenset(given["container"])
        return found

    def _given(self, name: str, value: Any, at: At) -> tuple[str, ...]:
        check = {"unit": _unit, "container": _container}.get(name, checks.account)
        self._written[f"who.{name}"] = self._values(value, at, check)
        return self._written[f"who.{name}"]

    def _ids(self, kind: str, names: Iterable[str], lookup: Lookup, *, allow: bool) -> frozenset[int]:
        found = {name: int(name) if name.isdecimal() else lookup(name) for name in names}
        unknown = [name for name, number in found.items() if number is None]
        if unknown and not allow:
            # It would deny nobody, and a later rule might let in who was meant.
            raise self._at.under(f"who.{kind}").refuse(
                f"denies {unknown[0]}, which this machine does not know", hint="give the id, or make the account first"
            )
        for name in unknown:
            text = f"rule {self._at.key.removeprefix('rule ')} names {kind} {name}, which this machine does not know"
            self._notes.append(f"{self._at.source}: {text}")
        return frozenset(number for number in found.values() if number is not None)

    def _what(self, table: Mapping[str, Any]) -> dict[str, Any]:
        kinds: dict[str, tuple[Callable[[Any, At], str], Callable[[Iterable[str]], Any]]] = {
            "keys": (_key, tuple),
            "uses": (checks.choice(*USES), frozenset),
            "formats": (checks.choice(*FORMATS), frozenset),
            "contexts": (_pattern, tuple),
            "audiences": (_pattern, tuple),
            "secrets": (_secret, tuple),
        }
        found: dict[str, Any] = {}
        for name, (check, kind) in kinds.items():
            if name in table:
                self._written[name] = self._values(table[name], self._at.under(name), check)
                found[name] = kind(self._written[name])
        if "persistent" in table:
            found["persistent"] = checks.boolean(table["persistent"], self._at.under("persistent"))
            self._written["persistent"] = ("true" if found["persistent"] else "false",)
        return found

    def _namespace(self, table: Mapping[str, Any], *, allow: bool) -> str:
        if "namespace" not in table:
            return ""
        at = self._at.under("namespace")
        if not allow:
            raise at.refuse("means nothing in a rule that denies")
        name = checks.name(table["namespace"], at)
        if _OWN.fullmatch(name):
            raise at.refuse(f"{name} is that user's own", hint=f'to share those keys: keys = ["{name}/*"]')
        return name

    def _values(self, value: Any, at: At, check: Callable[[Any, At], str]) -> tuple[str, ...]:
        """One string, or an array of different ones."""
        if isinstance(value, str):
            return (check(value, at),)
        return checks.several(check, least=1, most=_MAX_VALUES)(value, at)


def _family(word: str, operation: str) -> bool:
    return word.endswith(ANY) and operation.startswith(word[:-1])


def _unit(value: Any, at: At) -> str:
    given = checks.text(256)(value, at)
    if not _UNIT.fullmatch(given):
        raise at.refuse(f"must be the whole name of a service, scope, socket, mount or swap, not {given[:80]!r}")
    return given


def _container(value: Any, at: At) -> str:
    given = checks.text(256)(value, at)
    if given != ANY and not _CONTAINER.fullmatch(given):
        raise at.refuse(
            f"must be a container's whole id (64 hex digits) or *, not {given[:80]!r}",
            hint="docker ps --no-trunc, podman ps --no-trunc",
        )
    return given


def _key(value: Any, at: At) -> str:
    given = checks.text(256)(value, at)
    if given not in (ANY, AGENT_KEY) and not _KEY.fullmatch(given):
        raise at.refuse(
            f"must be NAMESPACE/NAME, NAMESPACE/BEGINNING*, {AGENT_KEY} (the agent's own) or *, not {given[:80]!r}"
        )
    return given


def _secret(value: Any, at: At) -> str:
    given = checks.text(256)(value, at)
    if not _SECRET.fullmatch(given):
        raise at.refuse(f"must be the NAME of [secrets.NAME], BEGINNING* or *, not {given[:80]!r}")
    return given


def _pattern(value: Any, at: At) -> str:
    given = checks.text(256)(value, at)
    if ANY in given[:-1]:
        raise at.refuse("has a * that is not at its end")
    return given
