"""``any_of``: a policy's set of whole alternatives, and whether a policy pins the workload at all.

Lists beside each other (``mr_td`` in two values, ``rtmr1`` in two) accept every mixture of them; a machine that runs
the old kernel under the new firmware is in none of the states that the admin meant. ``any_of`` is a list of objects
of rules: at least one of them must hold as a whole, beside everything that stands outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.core.canonical import shown
from agent.core.rules import bad, hex_bytes

ANY_OF = "any_of"
MAX_ALTERNATIVES = 64
MEASUREMENT_SIZE = 48
"""Bytes of a launch measurement, of MRTD and of an RTMR."""
APART = (ANY_OF, "tcb")
"""Names that stand outside the alternatives."""


def check_any_of(found: Any) -> Sequence[Mapping[str, Any]]:
    """The alternatives, none empty. Raises FormatError; the rules within are not looked at."""
    if not isinstance(found, list) or not 0 < len(found) <= MAX_ALTERNATIVES:
        raise bad(f"{ANY_OF} is not a list of 1 to {MAX_ALTERNATIVES} objects")
    for number, alternative in enumerate(found, 1):
        if not isinstance(alternative, Mapping) or not alternative:
            raise bad(f"{ANY_OF}: alternative {number} is not an object with at least one rule")
        if apart := [name for name in APART if name in alternative]:
            raise bad(f"{ANY_OF}: {apart[0]} can't stand in alternative {number}: it stands beside {ANY_OF}")
    return found


def require_pinned(rules: Mapping[str, Any], names: Sequence[str], groups: Sequence[str]) -> None:
    """Raises FormatError unless the rules pin every one of ``names``, here or within ``groups``.

    Pinned is a name by exact_match or allow_list with 48 bytes as hex: all of them outside ``any_of``, or all of them
    in each of its alternatives.
    """
    missing = _missing(rules, names, groups)
    if not missing:
        return
    for number, alternative in enumerate(rules.get(ANY_OF, ()), 1):
        if absent := _missing(alternative, names, groups):
            raise bad(
                f"{absent[0]} is not constrained in alternative {number} of {ANY_OF}: each must pin {', '.join(names)}"
            )
    if ANY_OF not in rules:
        wanted = ", ".join(names)
        raise bad(f"{missing[0]} is not constrained: exact_match or allow_list is required for {wanted}")


def places(rules: Mapping[str, Any], name: str, groups: Sequence[str]) -> list[Any]:
    """Every rule over ``name``: at the top, and in each of ``groups``."""
    within = [rules.get(group) for group in groups]
    found = [rules.get(name), *(group.get(name) for group in within if isinstance(group, Mapping))]
    return [rule for rule in found if rule is not None]


def _missing(rules: Mapping[str, Any], names: Sequence[str], groups: Sequence[str]) -> list[str]:
    missing = []
    for name in names:
        operands = [operand for rule in places(rules, name, groups) for operand in pinned(rule)]
        for operand in operands:
            if len(hex_bytes(operand) or b"") != MEASUREMENT_SIZE:
                raise bad(f"{name}: {shown(str(operand))} is not {MEASUREMENT_SIZE} bytes as hex")
        if not operands:
            missing.append(name)
    return missing


def pinned(rule: Any) -> list[Any]:
    """The values that a rule leaves, none if it pins nothing."""
    if isinstance(rule, str):  # shorthand inside a group
        return [rule]
    if not isinstance(rule, Mapping):
        return []
    exact = [rule["exact_match"]] if "exact_match" in rule else []
    return [*exact, *rule.get("allow_list", [])]
