"""Policies: which evidence is good enough. Wire form: the attestation service's, metadata and validation_rules.

``Policy.parse`` refuses a policy that would accept any workload: SNP must constrain ``measurement``, TDX ``mr_td``
with ``rtmr0``, ``rtmr1`` and ``rtmr2`` (DESIGN.md section 3). ``evaluate`` fails closed: an unknown field, an unknown
rule, a value that can't be compared. ``Floor`` is what holds beside every policy, and without one.
Signatures of policies are not this module's business (agent.verify.policysign), nor is what a policy leaves open
(agent.core.unspoken).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent.core import appraisal, canonical, policyset, rules, tcbrule
from agent.core.appraisal import Node
from agent.core.errors import UsageError
from agent.core.model import Check, Tee
from agent.core.rules import bad

MAX_BYTES = 1 << 20
"""Longest policy document."""
MAX_DEPTH = 16
POLICY_TYPES = {"sev": Tee.SNP, "snp": Tee.SNP, "sev-snp": Tee.SNP, "amd-sev-snp": Tee.SNP} | {
    "tdx": Tee.TDX,
    "intel-tdx": Tee.TDX,
}
"""metadata.policy_type, in any case."""
GROUPS = {Tee.SNP: (), Tee.TDX: ("body",)}
"""Groups of the public service in which the workload's fields stand too."""
WORKLOAD = {Tee.SNP: ("measurement",), Tee.TDX: ("mr_td", "rtmr0", "rtmr1", "rtmr2")}
"""What a policy must pin for it to say anything about the workload."""
_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_SHOWN = 4
_SECTIONS = frozenset({"metadata", "validation_rules", "signature"})


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that constrains the workload. ``rules`` is validation_rules, ``document`` everything as it came.

    ``key_id`` names the secret that the service releases under it. ``signer`` says who vouches for the document: ""
    until somebody has verified its signature (agent.verify.policysign).
    """

    policy_id: str
    key_id: str
    policy_type: str
    rules: Mapping[str, Any]
    document: Mapping[str, Any]
    signer: str = ""

    @property
    def tee(self) -> Tee:
        return POLICY_TYPES[self.policy_type.lower()]

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Policy:
        """Raises FormatError (code "format.policy") saying what is wrong or what it fails to constrain."""
        if unknown := sorted(set(document) - _SECTIONS):
            raise bad(f"section {canonical.shown(unknown[0])} is not supported: it could not be enforced")
        metadata, found = document.get("metadata"), document.get("validation_rules")
        if not isinstance(metadata, Mapping) or not isinstance(found, Mapping):
            raise bad("metadata and validation_rules are required, both as objects")
        policy_type = metadata.get("policy_type")
        if not isinstance(policy_type, str) or policy_type.lower() not in POLICY_TYPES:
            raise bad("metadata.policy_type is not one of SEV, SNP, TDX")
        policy = cls(_policy_id(metadata.get("policy_id")), _key_id(metadata), policy_type, found, document)
        _check_rules(policy)
        policyset.require_pinned(found, WORKLOAD[policy.tee], GROUPS[policy.tee])
        return policy

    @classmethod
    def from_bytes(cls, data: bytes) -> Policy:
        """From a JSON file. Raises FormatError, Oversized."""
        return cls.parse(canonical.parse(data, "policy", MAX_BYTES, floats=True))

    @classmethod
    def pinning(cls, tee: Tee, values: Mapping[str, bytes]) -> Policy:
        """A policy that demands exactly these bytes (48 each) and nothing else. Raises FormatError as parse does."""
        exact = {name: {"exact_match": value.hex()} for name, value in values.items()}
        metadata = {"policy_type": "SNP" if tee is Tee.SNP else "TDX", "policy_id": "command-line", "key_id": "none"}
        return replace(cls.parse({"metadata": metadata, "validation_rules": exact}), signer="command line")


def evaluate(policy: Policy, fields: Mapping[str, Any], first: int = 1) -> list[Check]:
    """Every rule as a check, numbered from ``first``; all must hold. ``fields`` are those of Verified.

    For TDX's ``tcb`` rule, ``fields["tcb"]`` holds platform_tcb, tdx_module_tcb, qe_tcb and update.
    """
    tee = Tee.SNP if "measurement" in fields else Tee.TDX
    checks = [Check(1, "policy: kind of TEE", policy.tee is tee, f"policy for {policy.tee}, evidence of {tee}")]
    root = appraisal.tree(fields)
    for name, rule in policy.rules.items():
        if policy.tee is Tee.TDX and name == "tcb":
            checks += tcbrule.evaluate(rule, fields.get("tcb"))
        elif name == policyset.ANY_OF:
            checks.append(_any_of(rule, root))
        else:
            checks += _node(rule, root.children.get(name), name)
    return renumbered(checks, first)


def renumbered(checks: Sequence[Check], first: int) -> list[Check]:
    """The same checks, counted from ``first``."""
    return [Check(number, check.name, check.ok, check.detail) for number, check in enumerate(checks, first)]


def _node(rule: Any, node: Node | None, path: str) -> list[Check]:
    if node is None:
        return [_check(path, ok=False, detail="the evidence has no such field")]
    if not isinstance(rule, Mapping):  # scalar shorthand
        rule = {"boolean" if isinstance(rule, bool) else "exact_match": rule}
    checks = []
    for name, operand in rule.items():
        if name not in rules.RULES:
            checks += _node(operand, node.children.get(name), f"{path}.{name}")
        elif node.value is None:
            checks.append(_check(f"{path} {name}", ok=False, detail="a group of fields has no value of its own"))
        else:
            ok, detail = rules.holds(name, node.value, operand)
            checks.append(_check(f"{path} {name}", ok=ok, detail=detail))
    return checks


def _any_of(alternatives: Sequence[Mapping[str, Any]], root: Node) -> Check:
    """One check for the whole set: which alternative holds, or what each fails first."""
    failed = []
    for number, alternative in enumerate(alternatives, 1):
        checks = [check for name, rule in alternative.items() for check in _node(rule, root.children.get(name), name)]
        wrong = next((check.name.removeprefix("policy: ") for check in checks if not check.ok), "")
        if not wrong:
            return _check(policyset.ANY_OF, ok=True, detail=f"alternative {number} of {len(alternatives)}")
        failed.append(f"{number} fails {wrong}")
    more = f" and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    return _check(policyset.ANY_OF, ok=False, detail=f"no alternative holds: {', '.join(failed[:_SHOWN])}{more}")


def _check(name: str, *, ok: bool, detail: str) -> Check:
    return Check(0, f"policy: {name}", ok, detail)


def _policy_id(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise bad("metadata.policy_id is not 1 to 128 characters of A-Z a-z 0-9 _ . -")
    return text


def _key_id(metadata: Mapping[str, Any]) -> str:
    value = metadata.get("key_id")
    if not isinstance(value, str) or not value or not canonical.is_text(value, 256):
        raise bad("metadata.key_id is not text of 1 to 256 bytes")
    return value


def _check_rules(policy: Policy) -> None:
    for name, rule in policy.rules.items():
        if policy.tee is Tee.TDX and name == "tcb":
            tcbrule.check_shape(rule)
        elif name == policyset.ANY_OF:
            for alternative in policyset.check_any_of(rule):
                for inner, operand in alternative.items():
                    _check_shape(operand, inner, 1)
        else:
            _check_shape(rule, name, 1)


def _check_shape(rule: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise bad("nested too deeply")
    if not isinstance(rule, Mapping):
        if depth == 1 or not isinstance(rule, int | str):
            raise bad(f'{canonical.shown(path)}: a rule is an object such as {{"exact_match": ...}}')
        return
    if not rule:
        raise bad(f"{canonical.shown(path)}: an empty rule accepts anything")
    for name, operand in rule.items():
        if name in rules.RULES:
            rules.check_shape(name, operand, canonical.shown(path))
        else:
            _check_shape(operand, f"{path}.{name}", depth + 1)


FLOOR_NAMES = frozenset({"debug", "sept-ve", "vmpl"})


@dataclass(frozen=True, slots=True)
class Floor:
    """What must hold beside every policy: debug off, SEPT_VE_DISABLE set (TDX), VMPL as expected (SNP).

    Each is lifted only by its name: ``Floor(allow=frozenset({"debug"}))``. Raises UsageError for other names.
    """

    vmpl: int = 0
    allow: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if unknown := sorted(self.allow - FLOOR_NAMES):
            known = ", ".join(sorted(FLOOR_NAMES))
            raise UsageError(f"nothing on the floor is called {canonical.shown(unknown[0])}", hint=f"known: {known}")

    def lifted(self) -> tuple[str, ...]:
        """What is not checked, in words."""
        return tuple(f"floor: {name} (lifted by name)" for name in sorted(self.allow))


def evaluate_floor(floor: Floor, tee: Tee, fields: Mapping[str, Any], first: int = 1) -> list[Check]:
    """The floor's checks that are not lifted, numbered from ``first``. A missing field fails (closed)."""
    found = _snp_floor(floor, fields) if tee is Tee.SNP else _tdx_floor(fields)
    kept = [one for one in found if one[0] not in floor.allow]
    return [Check(number, f"floor: {name}", ok, detail) for number, (name, ok, detail) in enumerate(kept, first)]


_DEBUG_BIT = 19  # AMD 56860, guest policy


def _snp_floor(floor: Floor, fields: Mapping[str, Any]) -> list[tuple[str, bool, str]]:
    word = appraisal.node(fields.get("policy")).value
    off = isinstance(word, appraisal.Word) and not word.value >> _DEBUG_BIT & 1
    vmpl = fields.get("vmpl")
    return [
        ("debug", off, "off" if off else "the guest policy allows debugging: the host can read its memory"),
        ("vmpl", vmpl == floor.vmpl, f"VMPL {vmpl!a}, {floor.vmpl} is expected"),
    ]


def _tdx_floor(fields: Mapping[str, Any]) -> list[tuple[str, bool, str]]:
    found = rules.hex_bytes(fields.get("td_attributes"))
    attributes = found if found and len(found) == 8 else b"\xff\0\0\0\0\0\0\0"
    off, guarded = attributes[0] == 0, bool(attributes[3] & 0x10)
    return [
        ("debug", off, "off" if off else "TD_ATTRIBUTES.TUD is set: the host can debug the TD"),
        ("sept-ve", guarded, "SEPT_VE_DISABLE is set" if guarded else "SEPT_VE_DISABLE is not set"),
    ]
