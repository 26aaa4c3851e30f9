"""A policy that accepts one workload more: the predicted next boot beside what it accepts already. Pure.

The counterpart of agent.core.draft.tighten. Workloads are accepted as wholes: TDX's go into ``any_of``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.core.draft import tighten
from agent.core.errors import Conflict, PolicyViolation
from agent.core.model import Tee
from agent.core.policy import GROUPS, WORKLOAD, Policy
from agent.core.policyset import ANY_OF, pinned

Workload = Mapping[str, str]


def widened(policy: Policy, workload: Workload) -> Policy:
    """The policy with ``workload`` (the names of WORKLOAD, 48 bytes as hex) as a further alternative.

    The same policy where it accepts it already. A signature goes: it was made over the smaller set. Raises FormatError
    (the workload), Conflict (``conflict.policy``) for a policy in whose form there is no place for one.
    """
    try:
        tighten(policy, workload)
    except PolicyViolation:
        pass
    else:
        return policy
    rules = _listed(policy, workload) if policy.tee is Tee.SNP else _alternative(policy, workload)
    document = {name: item for name, item in policy.document.items() if name != "signature"}
    return Policy.parse({**document, "validation_rules": rules})


def _listed(policy: Policy, workload: Workload) -> dict[str, Any]:
    """SNP has one measurement: its list grows."""
    (name,) = WORKLOAD[policy.tee]
    rules = dict(policy.rules)
    if ANY_OF in rules:
        return {**rules, ANY_OF: [*rules[ANY_OF], {name: {"exact_match": workload[name]}}]}
    rule, values = rules.get(name), pinned(rules.get(name))
    if not values or (isinstance(rule, Mapping) and set(rule) - {"exact_match", "allow_list"}):
        raise _no_place(name)
    return {**rules, name: {"allow_list": [*values, workload[name]]}}


def _alternative(policy: Policy, workload: Workload) -> dict[str, Any]:
    """TDX's four values belong together."""
    rules = dict(policy.rules)
    added = {"body": {name: {"exact_match": workload[name]} for name in WORKLOAD[policy.tee]}}
    if ANY_OF in rules:
        return {**rules, ANY_OF: [*rules[ANY_OF], added]}
    moved: dict[str, Any] = {}
    for group in ("", *GROUPS[policy.tee]):
        place = rules if not group else dict(rules.get(group, {}))
        found = {name: place.pop(name) for name in WORKLOAD[policy.tee] if name in place}
        if found and group:
            moved[group] = found
            rules[group] = place
        elif found:
            moved |= found
        if group and group in rules and not rules[group]:
            del rules[group]
    return {**rules, ANY_OF: [moved, added]}


def _no_place(name: str) -> Conflict:
    return Conflict(
        f"the policy says more of {name} than which values are accepted: none can be added",
        hint="draft a policy anew, or edit it by hand: docs/policy.md",
        code="conflict.policy",
    )
