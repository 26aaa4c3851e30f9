"""The ``tcb`` rule of a TDX policy: which TCB statuses, advisories and evaluation numbers are good enough.

Beside the public service's members (the least status of each part, ``update``) it has ours: a list of statuses in
place of a least one, ``allowed_statuses``, ``min_evaluation_data_number``, ``denied_advisories`` and
``allowed_advisories``. Everything is judged against ``fields["tcb"]`` (agent.verify.evidence), which is there only
where collateral was; without it every member fails (closed). Source of the statuses: Intel, provisioning service API
version 4, TCB level; the relaunch ones: quote verification library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.core.canonical import MAX_INTEGER, shown
from agent.core.model import Check
from agent.core.rules import bad

TCB_ORDER = (
    "NotSupported",
    "Revoked",
    "OutOfDateConfigurationNeeded",
    "OutOfDate",
    "ConfigurationAndSWHardeningNeeded",
    "ConfigurationNeeded",
    "SWHardeningNeeded",
    "UpToDate",
)
"""Intel's TCB statuses, worst first. Launch-time ones (TDRelaunchAdvised...) count as OutOfDate."""
TCB_PARTS = ("platform_tcb", "tdx_module_tcb", "qe_tcb")
ACCEPTABLE = TCB_ORDER[2:]
"""The other two always fail."""

_RELAUNCH = {"TDRelaunchAdvised": "OutOfDate", "TDRelaunchAdvisedConfigurationNeeded": "OutOfDateConfigurationNeeded"}
OVERALL = (*ACCEPTABLE, *_RELAUNCH)
"""What the whole platform's status may be where a policy allows it."""
_ADVISORY = re.compile(r"INTEL-[A-Z]{2,8}-[0-9]{5}", re.ASCII)
_UPDATES = ("standard", "early")


def check_shape(rule: Any) -> None:
    """Raises FormatError (code "format.policy") unless ``rule`` is a ``tcb`` rule that can hold."""
    if not isinstance(rule, Mapping) or not rule:
        raise bad(f"tcb is an object of {', '.join((*TCB_PARTS, *_MEMBERS))}")
    for name, value in rule.items():
        if name in TCB_PARTS:
            _check_part(name, value)
        elif name in _MEMBERS:
            _MEMBERS[name][0](name, value)
        else:
            raise bad(f"tcb: unknown part {shown(str(name))}")


def evaluate(rule: Mapping[str, Any], found: Any) -> list[Check]:
    """One unnumbered check for each member. ``found`` is ``fields["tcb"]``; anything but a mapping fails them all."""
    have = found if isinstance(found, Mapping) else {}
    checks = []
    for name, wanted in rule.items():
        problem = _part(have.get(name), wanted) if name in TCB_PARTS else _MEMBERS[name][1](have, wanted)
        checks.append(Check(0, f"policy: tcb.{name}", not problem, problem))
    return checks


def speaks_of(rule: Any, part: str) -> bool:
    """Whether the rule says which statuses ``part`` (of TCB_PARTS) may have: by its name, or for all together."""
    return isinstance(rule, Mapping) and (part in rule or "allowed_statuses" in rule)


def _part(have: Any, wanted: str | Sequence[str]) -> str:
    status = _RELAUNCH.get(str(have), str(have)) if have else "unknown"
    if isinstance(wanted, str):
        ok = status in ACCEPTABLE and TCB_ORDER.index(status) >= TCB_ORDER.index(wanted)
        return "" if ok else f"{status}, {wanted} is required"
    return "" if status in ACCEPTABLE and status in wanted else f"{status} is none of {', '.join(wanted)}"


def _check_part(name: str, value: Any) -> None:
    if isinstance(value, list):
        _check_listed(name, value, ACCEPTABLE)
    elif value not in TCB_ORDER:
        raise bad(f"tcb.{name} is not one of {', '.join(TCB_ORDER)}")


def _check_listed(name: str, value: Any, allowed: Sequence[str]) -> None:
    if not isinstance(value, list) or not value:
        raise bad(f"tcb.{name} is not a list with at least one status")
    for status in value:
        if status not in allowed:
            raise bad(f"tcb.{name}: {shown(str(status))} is not one of {', '.join(allowed)}")


def _check_statuses(name: str, value: Any) -> None:
    _check_listed(name, value, OVERALL)


def _statuses(have: Mapping[str, Any], wanted: Sequence[str]) -> str:
    status = str(have.get("status", "unknown"))
    return "" if status in OVERALL and status in wanted else f"{status} is none of {', '.join(wanted)}"


def _check_update(name: str, value: Any) -> None:
    if value not in _UPDATES:
        raise bad(f"tcb.{name} is not one of {', '.join(_UPDATES)}")


def _update(have: Mapping[str, Any], wanted: str) -> str:
    if wanted == "standard" or have.get("update") == "early":
        return ""
    return f"{have.get('update', 'unknown')}, {wanted} is required"


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_INTEGER:
        raise bad(f"tcb.{name} is not a number above 0")


def _number(have: Mapping[str, Any], wanted: int) -> str:
    number = have.get("evaluation_data_number")
    if not isinstance(number, int) or isinstance(number, bool):
        return f"no collateral with a tcbEvaluationDataNumber was given, {wanted} is required"
    return "" if number >= wanted else f"the collateral's tcbEvaluationDataNumber is {number}, {wanted} is required"


def _check_denied(name: str, value: Any) -> None:
    if not value:
        raise bad(f"tcb.{name} is not a list with at least one advisory")
    _check_advisories(name, value)


def _check_advisories(name: str, value: Any) -> None:
    # By form, since an id that no advisory can have would deny nothing and nobody would notice.
    if not isinstance(value, list):
        raise bad(f"tcb.{name} is not a list of advisories")
    for item in value:
        if not isinstance(item, str) or not _ADVISORY.fullmatch(item):
            raise bad(f"tcb.{name}: {shown(str(item))} is no advisory's id, which looks like INTEL-SA-00837")


def _advisories(have: Mapping[str, Any]) -> list[str] | None:
    found = have.get("advisories")
    return [str(item) for item in found] if isinstance(found, list | tuple) else None


def _denied(have: Mapping[str, Any], wanted: Sequence[str]) -> str:
    found = _advisories(have)
    if found is None:
        return "advisories are unknown: no collateral was given"
    hit = [item for item in found if item in wanted]
    return f"{', '.join(hit)} applies to this platform" if hit else ""


def _allowed(have: Mapping[str, Any], wanted: Sequence[str]) -> str:
    found = _advisories(have)
    if found is None:
        return "advisories are unknown: no collateral was given"
    extra = [item for item in found if item not in wanted]
    return f"{', '.join(extra)} applies to this platform and is not allowed" if extra else ""


_Shape = Callable[[str, Any], None]
_Problem = Callable[[Mapping[str, Any], Any], str]
_MEMBERS: dict[str, tuple[_Shape, _Problem]] = {
    "update": (_check_update, _update),
    "allowed_statuses": (_check_statuses, _statuses),
    "min_evaluation_data_number": (_check_number, _number),
    "denied_advisories": (_check_denied, _denied),
    "allowed_advisories": (_check_advisories, _allowed),
}
MEMBERS = tuple(_MEMBERS)
"""Members of the rule beside the parts."""
