"""One rule of the access policy: whom it names, what it covers, and which selector does not match.

All selectors that a rule gives must hold; the values of one selector are alternatives. What a wish leaves open where
a deny rule is particular counts as denied: a use or format that is not known, groups too many to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from agent.core.errors import UsageError

OPERATIONS = (
    "status",
    "keys.list",
    "keys.create",
    "keys.rotate",
    "keys.destroy",
    "sign",
    "challenge",
    "verify",
    "metrics",
    "seal",
    "unseal",
    "secret",
)
AGENT_KEY = "agent"
"""How rules call the agent's own key; named keys always have a slash."""
APPLIES: Mapping[str, frozenset[str]] = {
    "status": frozenset(),
    "keys.list": frozenset({"keys"}),
    "keys.create": frozenset({"keys", "uses", "persistent"}),
    "keys.rotate": frozenset({"keys", "uses"}),
    "keys.destroy": frozenset({"keys", "uses"}),
    "sign": frozenset({"keys", "uses", "formats", "contexts", "audiences"}),
    "challenge": frozenset({"contexts", "audiences"}),
    "verify": frozenset(),
    "metrics": frozenset(),
    "seal": frozenset({"contexts"}),
    "unseal": frozenset({"contexts"}),
    "secret": frozenset({"secrets"}),
}
"""Which selectors mean something for an operation; a rule that gives another one is refused."""
ANY = "*"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller wants. ``key`` is "namespace/name", or a bare name in the caller's namespace, "" the agent's own.

    ``secret`` is the name of a configured secret, "" for the list of them; ``persistent`` is for a key to be made.
    Raises UsageError for an operation that there is none of, or a key with more than one slash.
    """

    operation: str
    key: str = ""
    use: str = ""
    format: str = ""
    context: str = ""
    audience: str = ""
    secret: str = ""
    persistent: bool = False

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise UsageError(f"there is no operation {self.operation[:40]!r}", hint=", ".join(OPERATIONS))
        if self.key.count("/") > 1 or self.key.startswith("/"):
            raise UsageError("a key is NAMESPACE/NAME, or NAME in the caller's own namespace", code="usage.key")

    def full_key(self, namespace: str) -> str:
        """The key with its namespace; "" stays the agent's own."""
        return self.key if not self.key or "/" in self.key else f"{namespace}/{self.key}"


HIDDEN = "?"
"""No unit has this name: it would end in .service or the like."""


@dataclass(frozen=True, slots=True)
class Who:
    """A caller as the kernel names it: ids, systemd unit and container ("" where there is none).

    ``groups`` are the supplementary ones; ``groups_known`` is False where they were too many to read. A ``unit`` that
    is HIDDEN: neither unit nor container could be told.
    """

    uid: int
    gid: int
    groups: frozenset[int] = frozenset()
    unit: str = ""
    container: str = ""
    groups_known: bool = True

    @property
    def own_namespace(self) -> str:
        """Where this caller's keys are unless a rule says otherwise."""
        return f"uid-{self.uid}"

    def __str__(self) -> str:
        unit = "unit not to be seen" if self.unit == HIDDEN else f"unit {self.unit}" if self.unit else "no unit"
        parts = (f"uid {self.uid}", unit)
        return ", ".join(parts) + (f", container {self.container}" if self.container else "")


@dataclass(frozen=True, slots=True)
class Rule:
    """A checked rule. None: the selector is not given. ``written`` has the selectors as the file has them."""

    name: str
    source: str
    allow: bool
    operations: frozenset[str]
    users: frozenset[int] | None = None
    groups: frozenset[int] | None = None
    units: frozenset[str] | None = None
    containers: frozenset[str] | None = None
    keys: tuple[str, ...] | None = None
    uses: frozenset[str] | None = None
    formats: frozenset[str] | None = None
    contexts: tuple[str, ...] | None = None
    audiences: tuple[str, ...] | None = None
    secrets: tuple[str, ...] | None = None
    persistent: bool | None = None
    namespace: str = ""
    written: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def stranger(self, who: Who) -> str:
        """The first selector of ``who`` that the caller does not match, "" when the rule names it."""
        return next((name for name, holds in self._who(who) if not holds), "")

    def miss(self, who: Who, wish: Wish, namespace: str) -> str:
        """The first selector that does not match, "" when the rule decides. ``namespace`` is the caller's."""
        if wish.operation not in self.operations:
            return "operations"
        return self.stranger(who) or next((name for name, holds in self._what(wish, namespace) if not holds), "")

    def shown(self, selector: str) -> tuple[str, ...]:
        """A selector's values as the file has them; of ``operations`` what they stand for."""
        if selector == "operations":
            return tuple(name for name in OPERATIONS if name in self.operations)
        return self.written.get(selector, ())

    def _who(self, who: Who) -> Iterator[tuple[str, bool]]:
        if self.users is not None:
            yield "who.user", who.uid in self.users
        if self.groups is not None:
            unknown = not who.groups_known and not self.allow
            yield "who.group", unknown or who.gid in self.groups or not self.groups.isdisjoint(who.groups)
        hidden = who.unit == HIDDEN and not self.allow
        if self.units is not None:
            yield "who.unit", hidden or who.unit in self.units
        if self.containers is not None:
            yield "who.container", hidden or (bool(who.container) and bool({ANY, who.container} & self.containers))

    def _what(self, wish: Wish, namespace: str) -> Iterator[tuple[str, bool]]:
        if "keys" in APPLIES[wish.operation]:
            yield "keys", self._covers(wish, namespace)
        if "secrets" in APPLIES[wish.operation]:
            yield "secrets", self._releases(wish.secret)
        if self.persistent is not None:
            yield "persistent", wish.persistent is self.persistent
        for name, values, value in (("uses", self.uses, wish.use), ("formats", self.formats, wish.format)):
            if values is not None:
                yield name, value in values or (not value and not self.allow)
        for name, patterns, text in (
            ("contexts", self.contexts, wish.context),
            ("audiences", self.audiences, wish.audience),
        ):
            if patterns is not None:
                yield name, matches(patterns, text)

    def _covers(self, wish: Wish, namespace: str) -> bool:
        """Without ``keys``: a deny rule covers every key, an allow rule the agent's and the caller's own."""
        key = wish.full_key(namespace)
        if wish.operation == "keys.list" and not key:
            # The list as such; which keys are on it is asked for each of them.
            return self.allow or self.keys is None or ANY in self.keys
        if self.keys is None:
            return not self.allow or not key or key.startswith(f"{namespace}/")
        return matches(self.keys, key or AGENT_KEY)

    def _releases(self, secret: str) -> bool:
        """Without ``secrets``: a deny rule covers every secret, an allow rule none. No secret is a caller's own."""
        if not secret:
            # The list as such; which secrets are on it is asked for each of them.
            return self.allow or self.secrets is None or ANY in self.secrets
        return not self.allow if self.secrets is None else matches(self.secrets, secret)


def matches(patterns: tuple[str, ...], value: str) -> bool:
    """True when one is ``value``, or its beginning followed by ``*``."""
    return any(value.startswith(one[:-1]) if one.endswith(ANY) else value == one for one in patterns)
