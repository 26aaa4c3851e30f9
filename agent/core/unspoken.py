"""What a policy says nothing of, though a relying party should care: it is listed as not checked.

The workload is always pinned and the floor always on (agent.core.policy); this is about the rest. In the list is what
decides how much the host can do to a workload that is otherwise the right one; docs/policy.md gives the reason for
each, and for what is left out. A field is spoken of when a rule stands over it or over one of its parts; a rule that
fixes a whole word (exact_match, allow_list) speaks of every part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from agent.core import tcbrule
from agent.core.model import Tee
from agent.core.policy import GROUPS, Policy
from agent.core.policyset import ANY_OF
from agent.core.rules import RULES

CARED_FOR = {
    Tee.SNP: (
        "reported_tcb",
        "launch_tcb",
        "policy.migrate_ma_allowed",
        "policy.smt_allowed",
        "platform_info.alias_check_complete",
        "platform_info.ciphertext_hiding_enabled",
        "host_data",
    ),
    Tee.TDX: ("td_attributes.migratable", "mr_service_td", "mr_config_id", "mr_owner", "mr_owner_config", "rtmr3"),
}
"""By dotted paths, TDX's ``tcb`` rule apart. One that the evidence does not have is not listed."""
_ALIASES = {
    "policy.migrate_ma_allowed": "policy_bits.migrate_ma",
    "policy.smt_allowed": "policy_bits.smt",
}
_FIXING = frozenset({"exact_match", "allow_list"})


def unspoken(policy: Policy, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Lines for ``not_checked``, over the fields of evidence of the policy's own kind."""
    tee = policy.tee
    paths = _tcb_rule(policy.rules.get("tcb")) if tee is Tee.TDX else []
    touched = set(policy.rules).union(*policy.rules.get(ANY_OF, ()))
    for path in CARED_FOR[tee]:
        value = fields.get(path.partition(".")[0])
        if value is None:
            continue
        if touched.isdisjoint(name[0] for name in _names(tee, path)):
            paths.append(path)  # no rule begins like any spelling of it
        else:
            parts = tuple(name for name in value if name != "raw") if isinstance(value, Mapping) else ()
            paths += _silent(policy, path, parts)
    return tuple(f"policy: says nothing of {path}" for path in paths)


def _tcb_rule(rule: Any) -> list[str]:
    silent = [part for part in tcbrule.TCB_PARTS if not tcbrule.speaks_of(rule, part)]
    if not isinstance(rule, Mapping):
        return ["tcb"]
    number = [] if "min_evaluation_data_number" in rule else ["min_evaluation_data_number"]
    return [f"tcb.{name}" for name in (*silent, *number)]


def _silent(policy: Policy, path: str, parts: Sequence[str]) -> list[str]:
    """``path`` if nothing is said of it; of a TCB, those parts that no rule speaks of."""
    if not parts:
        return [] if _spoken(policy, path) else [path]
    silent = [part for part in parts if not _spoken(policy, f"{path}.{part}") and not _fixed(policy, f"{path}.raw")]
    return [path] if len(silent) == len(parts) else [f"{path}.{part}" for part in silent]


def _spoken(policy: Policy, path: str) -> bool:
    return _everywhere(policy, path, fixing=False)


def _fixed(policy: Policy, path: str) -> bool:
    return _everywhere(policy, path, fixing=True)


def _everywhere(policy: Policy, path: str, *, fixing: bool) -> bool:
    """Outside any_of, or in each of its alternatives."""
    names = _names(policy.tee, path)
    sets: Sequence[Mapping[str, Any]] = policy.rules.get(ANY_OF, ())
    if any(_says(policy.rules, name, fixing=fixing) for name in names):
        return True
    return bool(sets) and all(any(_says(rules, name, fixing=fixing) for name in names) for rules in sets)


@lru_cache(256)  # paths are ours and the fields', never a stranger's
def _names(tee: Tee, path: str) -> tuple[tuple[str, ...], ...]:
    """Every spelling of ``path``, in steps."""
    found = [path, *(f"{group}.{path}" for group in GROUPS[tee])]
    found += [_ALIASES[path]] if path in _ALIASES else []
    return tuple(tuple(name.split(".")) for name in found)


def _says(rules: Mapping[str, Any], path: tuple[str, ...], *, fixing: bool) -> bool:
    """Whether ``rules`` speak of ``path``: ``fixing`` counts only what leaves one value or a list of them."""
    rule: Any = rules
    for name in path:
        rule = rule.get(name)
        if rule is None:
            return False
        if not isinstance(rule, Mapping) or _FIXING & rule.keys():  # a scalar is short for exact_match
            return True
    return not fixing and bool(rule.keys() & RULES.keys())
