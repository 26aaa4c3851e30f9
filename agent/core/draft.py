"""A policy drawn from evidence that this machine gave: what runs now, and nothing that is only guessed.

Pure. ``draft`` gives a document that Policy.parse takes and that the evidence itself satisfies; ``remarks`` says what
the document does not cover. MRTD is never written without RTMR0 to 2 (DESIGN.md, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.core import appraisal
from agent.core.appraisal import Octets
from agent.core.canonical import shown
from agent.core.errors import PolicyViolation
from agent.core.model import Tee
from agent.core.policy import GROUPS, WORKLOAD, Floor, Policy, evaluate, evaluate_floor
from agent.core.policyset import ANY_OF, MEASUREMENT_SIZE, places
from agent.core.rules import RULES, bad, hex_bytes, holds
from agent.core.tcbrule import TCB_PARTS

POLICY_TYPE = {Tee.SNP: "SNP", Tee.TDX: "TDX"}
UP_TO_DATE = "UpToDate"
PERMISSIONS = ("debug_allowed", "migrate_ma_allowed", "smt_allowed", "cxl_allowed")
"""Bits of an SNP guest policy that let the host do something (AMD 56860, table 10)."""
DEMANDS = ("single_socket_required", "mem_aes_256_xts", "rapl_dis", "ciphertext_hiding", "page_swap_disable")
"""Bits of an SNP guest policy that demand something of the host."""
PROTECTIONS = ("alias_check_complete", "ciphertext_hiding_enabled")
"""Bits of SNP's platform info that hinder a host: memory aliases (BadRAM), reading of ciphertext."""
Fields = Mapping[str, Any]


def draft(
    tee: Tee,
    fields: Fields,
    *,
    policy_id: str,
    key_id: str,
    tcb: str = UP_TO_DATE,
    also: Sequence[Mapping[str, str]] = (),
) -> Policy:
    """The policy that releases secret ``key_id`` to what is running. ``tcb`` is the least status of TDX's parts.

    ``also`` are further workloads to accept (the predicted next boot): each has exactly the names of WORKLOAD, 48 bytes
    as hex. They are accepted as wholes: no mixture of two is. Raises FormatError (a bad id, a bad workload) and
    PolicyViolation (``verify.policy.floor``): a machine below the floor gets no secret under any policy, so none is
    drawn.
    """
    for check in evaluate_floor(Floor(vmpl=fields.get("vmpl", 0)), tee, fields):
        if not check.ok:
            raise PolicyViolation(
                f"{check.name}: {check.detail}",
                checks=(check,),
                hint="no service releases anything to this machine: mend how the VM is launched, then draft again",
                code="verify.policy.floor",
            )
    workloads = _workloads(tee, fields, also)
    rules = _snp(fields, workloads) if tee is Tee.SNP else _tdx(fields, workloads, tcb)
    metadata = {"policy_type": POLICY_TYPE[tee], "policy_id": policy_id, "key_id": key_id}
    policy = Policy.parse({"metadata": metadata, "validation_rules": rules})
    _accepts(policy, tee, fields, tcb)
    return policy


def _workloads(tee: Tee, fields: Fields, also: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """What runs, then the others, each once."""
    found = [{name: str(fields[name]) for name in WORKLOAD[tee]}]
    for workload in also:
        values = _values(tee, workload)
        if values not in found:
            found.append(values)
    return found


def _values(tee: Tee, workload: Mapping[str, str]) -> dict[str, str]:
    """The workload's values in lower case. Raises FormatError unless its names and sizes are exactly right."""
    if set(workload) != set(WORKLOAD[tee]):
        raise bad(f"a workload of {tee} has {', '.join(WORKLOAD[tee])}, not {', '.join(sorted(workload))}")
    values = {name: hex_bytes(workload[name]) or b"" for name in WORKLOAD[tee]}
    for name, value in values.items():
        if len(value) != MEASUREMENT_SIZE:
            raise bad(f"{name}: {shown(str(workload[name]))} is not {MEASUREMENT_SIZE} bytes as hex")
    return {name: value.hex() for name, value in values.items()}


def _snp(fields: Fields, workloads: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    platform = _platform(fields)
    return {
        "measurement": {"allow_list": [workload["measurement"] for workload in workloads]},
        "vmpl": {"exact_match": fields["vmpl"]},
        "policy": _guest_policy(fields),
        "reported_tcb": _least(fields["reported_tcb"]),
        # Firmware may have been updated under the running guest: then this launch was older than what is reported.
        "launch_tcb": _least(fields["reported_tcb"], fields["launch_tcb"]),
        **({"platform_info": platform} if platform else {}),
    }


def _least(*tcbs: Mapping[str, Any]) -> dict[str, Any]:
    """Of each part the lower of the values, as a minimum."""
    return {name: {"min_value": min(tcb[name] for tcb in tcbs)} for name in tcbs[0] if name != "raw"}


def _platform(fields: Fields) -> dict[str, bool]:
    """Protections of the host's that are on now stay demanded."""
    tree = appraisal.tree(fields)
    bits = {name: tree.find(f"platform_info.{name}") for name in PROTECTIONS}
    return {name: True for name, bit in bits.items() if bit and bit.value is True}


def _guest_policy(fields: Fields) -> dict[str, bool]:
    """Never less than now: what is forbidden stays forbidden, what is demanded of the host stays demanded."""
    node = appraisal.tree(fields).find("policy")
    bits = {name: child.value for name, child in node.children.items()} if node else {}
    forbidden = {name: False for name in PERMISSIONS if bits.get(name) is False}
    return forbidden | {name: True for name in DEMANDS if bits.get(name) is True}


def _tdx(fields: Fields, workloads: Sequence[Mapping[str, str]], tcb: str) -> dict[str, Any]:
    """One workload in the public service's form; several as any_of, for lists would accept mixtures of them."""
    attributes = {"td_attributes": {"exact_match": fields["td_attributes"]}}
    parts = {"tcb": dict.fromkeys(TCB_PARTS, tcb)}
    if len(workloads) == 1:
        body = {name: {"allow_list": [value]} for name, value in workloads[0].items()}
        return {**parts, "body": {**body, **attributes}}
    exact = [{name: {"exact_match": value} for name, value in workload.items()} for workload in workloads]
    return {**parts, "body": attributes, ANY_OF: [{"body": rules} for rules in exact]}


def tighten(policy: Policy, keep: Mapping[str, str]) -> Policy:
    """The same policy for one workload only: ``keep`` has the names of WORKLOAD, 48 bytes as hex.

    Everything else that the policy says stays; its signature goes, for it was made over the larger set. Raises
    FormatError (``keep``) and PolicyViolation when the policy does not accept this workload.
    """
    tee = policy.tee
    values = _values(tee, keep)
    rules = _narrowed(policy.rules, values, GROUPS[tee])
    if ANY_OF in rules:
        fitting = [item for item in rules.pop(ANY_OF) if _fits(item, values, GROUPS[tee])]
        if not fitting:
            raise _not_in_set(f"no alternative of {ANY_OF} is")
        alternative = _narrowed(fitting[0], values, GROUPS[tee])
        merged = _merged(rules, alternative)
        rules = merged if merged is not None else {**rules, ANY_OF: [alternative]}
    document = {name: item for name, item in policy.document.items() if name != "signature"}
    return Policy.parse({**document, "validation_rules": rules})


def _not_in_set(what: str) -> PolicyViolation:
    return PolicyViolation(
        f"the policy does not accept this workload: {what} what is to be kept",
        hint="draft a policy from what runs now, or boot what the policy accepts",
    )


def _fits(rules: Mapping[str, Any], values: Mapping[str, str], groups: Sequence[str]) -> bool:
    return all(_holds(rule, value) for name, value in values.items() for rule in places(rules, name, groups))


def _holds(rule: Any, value: str) -> bool:
    """Whether every rule over a 48-byte field lets this value in."""
    rule = rule if isinstance(rule, Mapping) else {"exact_match": rule}
    octets = Octets(bytes.fromhex(value))
    return all(name in RULES and holds(name, octets, operand)[0] for name, operand in rule.items())


def _narrowed(rules: Mapping[str, Any], values: Mapping[str, str], groups: Sequence[str]) -> dict[str, Any]:
    """The rules with every list over a workload's field cut to the one value."""
    narrowed: dict[str, Any] = {}
    for name, rule in rules.items():
        if name in groups and isinstance(rule, Mapping):
            narrowed[name] = _narrowed(rule, values, ())
        elif name not in values:
            narrowed[name] = rule
        elif not _holds(rule, values[name]):
            raise _not_in_set(f"{name} is not")
        elif isinstance(rule, Mapping) and "allow_list" in rule:
            narrowed[name] = {**rule, "allow_list": [values[name]]}
        else:
            narrowed[name] = rule
    return narrowed


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any] | None:
    """Both sets of rules as one; None where both say something of the same field."""
    merged = dict(one)
    for name, rule in other.items():
        if name not in merged:
            merged[name] = rule
            continue
        both = isinstance(merged[name], Mapping) and isinstance(rule, Mapping) and not {*merged[name], *rule} & {*RULES}
        within = _merged(merged[name], rule) if both else None
        if within is None:
            return None
        merged[name] = within
    return merged


def _accepts(policy: Policy, tee: Tee, fields: Fields, tcb: str) -> None:
    """The draft must take the evidence it was drawn from, TDX's statuses aside: those only collateral tells."""
    known = {**fields, "tcb": dict.fromkeys(TCB_PARTS, tcb)} if tee is Tee.TDX else fields
    failed = [check for check in evaluate(policy, known) if not check.ok]
    if failed:
        raise PolicyViolation(
            f"the draft would refuse this machine: {failed[0].name}: {failed[0].detail}", checks=failed[:1]
        )


def remarks(tee: Tee, fields: Fields, *, also: int = 0) -> tuple[str, ...]:
    """What the admin has to know about the draft, in words. ``also``: how many further workloads it accepts."""
    said = [
        _scope(tee, also),
        "The evidence was not verified here: the attestation service does that at every release.",
    ]
    if tee is Tee.SNP:
        said.append(
            "An SNP measurement covers the firmware; kernel, initramfs and command line only where the host boots "
            "them directly with hashes, or as one measured image. tee-agent status tells whether it did here."
        )
        if fields["vmpl"]:
            said.append(f"The evidence is of VMPL {fields['vmpl']}: the service's floor demands 0.")
    else:
        said.append(
            "The statuses of the TCB's parts are demanded as written: whether this platform has them, its collateral "
            "at the service tells."
        )
    return tuple(said)


def _scope(tee: Tee, also: int) -> str:
    if also:
        return (
            f"It accepts what is running now and {also} further state{'s' if also > 1 else ''}, each as a whole. After "
            "the first good boot keep the one that runs: tee-agent policy tighten."
        )
    what = "firmware or launch configuration" if tee is Tee.SNP else "firmware, kernel, initramfs or command line"
    return (
        f"It accepts what is running now, and nothing else. Before a change of {what}, add what the next boot will "
        "measure (tee-agent policy predict); without that, boot with a passphrase afterwards, draft again, and put the "
        "new policy in place of this one."
    )
