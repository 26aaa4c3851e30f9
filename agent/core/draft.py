"""A policy drawn from evidence that this machine gave: what runs now, and nothing that is only guessed.

Pure. ``draft`` gives a document that Policy.parse takes and that the evidence itself satisfies; ``remarks`` says what
the document does not cover. MRTD is never written without RTMR0 to 2 (DESIGN.md, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.core import appraisal
from agent.core.errors import PolicyViolation
from agent.core.model import Tee
from agent.core.policy import TCB_PARTS, WORKLOAD, Floor, Policy, evaluate, evaluate_floor

POLICY_TYPE = {Tee.SNP: "SNP", Tee.TDX: "TDX"}
UP_TO_DATE = "UpToDate"
PERMISSIONS = ("debug_allowed", "migrate_ma_allowed", "smt_allowed", "cxl_allowed")
"""Bits of an SNP guest policy that let the host do something (AMD 56860, table 10)."""
DEMANDS = ("single_socket_required", "mem_aes_256_xts", "rapl_dis", "ciphertext_hiding", "page_swap_disable")
"""Bits of an SNP guest policy that demand something of the host."""
Fields = Mapping[str, Any]


def draft(tee: Tee, fields: Fields, *, policy_id: str, key_id: str, tcb: str = UP_TO_DATE) -> Policy:
    """The policy that releases secret ``key_id`` to what is running. ``tcb`` is the least status of TDX's parts.

    Raises FormatError (a bad id) and PolicyViolation (``verify.policy.floor``): a machine below the floor gets no
    secret under any policy, so none is drawn.
    """
    for check in evaluate_floor(Floor(vmpl=fields.get("vmpl", 0)), tee, fields):
        if not check.ok:
            raise PolicyViolation(
                f"{check.name}: {check.detail}",
                checks=(check,),
                hint="no service releases anything to this machine: mend how the VM is launched, then draft again",
                code="verify.policy.floor",
            )
    rules = _snp(fields) if tee is Tee.SNP else _tdx(fields, tcb)
    metadata = {"policy_type": POLICY_TYPE[tee], "policy_id": policy_id, "key_id": key_id}
    policy = Policy.parse({"metadata": metadata, "validation_rules": rules})
    _accepts(policy, tee, fields, tcb)
    return policy


def _snp(fields: Fields) -> dict[str, Any]:
    return {
        "measurement": {"allow_list": [fields["measurement"]]},
        "vmpl": {"exact_match": fields["vmpl"]},
        "policy": _guest_policy(fields),
        "reported_tcb": {name: {"min_value": part} for name, part in fields["reported_tcb"].items() if name != "raw"},
    }


def _guest_policy(fields: Fields) -> dict[str, bool]:
    """Never less than now: what is forbidden stays forbidden, what is demanded of the host stays demanded."""
    node = appraisal.tree(fields).find("policy")
    bits = {name: child.value for name, child in node.children.items()} if node else {}
    forbidden = {name: False for name in PERMISSIONS if bits.get(name) is False}
    return forbidden | {name: True for name in DEMANDS if bits.get(name) is True}


def _tdx(fields: Fields, tcb: str) -> dict[str, Any]:
    body = {name: {"allow_list": [fields[name]]} for name in WORKLOAD[Tee.TDX]}
    attributes = {"td_attributes": {"exact_match": fields["td_attributes"]}}
    return {"tcb": dict.fromkeys(TCB_PARTS, tcb), "body": {**body, **attributes}}


def _accepts(policy: Policy, tee: Tee, fields: Fields, tcb: str) -> None:
    """The draft must take the evidence it was drawn from, TDX's statuses aside: those only collateral tells."""
    known = {**fields, "tcb": dict.fromkeys(TCB_PARTS, tcb)} if tee is Tee.TDX else fields
    failed = [check for check in evaluate(policy, known) if not check.ok]
    if failed:
        raise PolicyViolation(
            f"the draft would refuse this machine: {failed[0].name}: {failed[0].detail}", checks=failed[:1]
        )


def remarks(tee: Tee, fields: Fields) -> tuple[str, ...]:
    """What the admin has to know about the draft, in words."""
    said = [
        "It holds what is running now. What the next boot will measure can't be predicted yet: after a change of "
        + ("firmware or launch configuration" if tee is Tee.SNP else "firmware, kernel, initramfs or command line")
        + ", boot with a passphrase, draft again, and put the new policy in place of this one.",
        "The evidence was not verified here: the attestation service does that at every release.",
    ]
    if tee is Tee.SNP:
        said.append(
            "An SNP measurement covers the firmware; kernel, initramfs and command line only where the host boots "
            "them directly with hashes, or as one measured image. Nothing here tells which (tee-agent status)."
        )
        if fields["vmpl"]:
            said.append(f"The evidence is of VMPL {fields['vmpl']}: the service's floor demands 0.")
    else:
        said.append(
            "The statuses of the TCB's parts are demanded as written: whether this platform has them, its collateral "
            "at the service tells."
        )
    return tuple(said)
