"""What `preflight` says of measurements: is this boot's initramfs measured, and will the next boot be accepted?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.admin import measured
from agent.admin.evidence import live
from agent.admin.predict import Workload
from agent.core.config import Config
from agent.core.draft import UP_TO_DATE
from agent.core.errors import TeeAgentError
from agent.core.health import Finding, State
from agent.core.model import Tee
from agent.core.policy import WORKLOAD, Policy, evaluate
from agent.core.tcbrule import TCB_PARTS
from agent.deadline import Deadline

Fields = Mapping[str, Any]
_STATES: Mapping[str, State] = {"yes": "ok", "no": "note", "unknown": "note"}
"""No obstacle to a boot, either way."""


def findings(config: Config, policy: Policy | None) -> Iterator[Finding]:
    """Two findings; one where no evidence can be had."""
    try:
        tee, fields = live(config, Deadline(config.evidence.quote_seconds, "evidence"))
    except TeeAgentError as error:
        yield Finding("initramfs measured", "note", f"unknown: no evidence: {error.message}", error.hint)
        return
    boot = measured.judged(config, tee, fields)
    said = f"{boot.measured.state}: {boot.measured.reason}"
    yield Finding("initramfs measured", _STATES[boot.measured.state], said)
    try:
        outlook = measured.upcoming(config, tee, fields, boot)
    except TeeAgentError as error:
        yield Finding("next boot", "note", error.message, error.hint)
        return
    yield _judged(tee, fields, outlook.workload, policy)


def _judged(tee: Tee, fields: Fields, workload: Workload, policy: Policy | None) -> Finding:
    same = all(fields[name] == workload[name] for name in WORKLOAD[tee])
    text = "will measure what this one did" if same else f"will measure something else ({_changed(fields, workload)})"
    if policy is None:
        hint = "" if same else "add it to the service's policy before: tee-agent policy predict --policy FILE"
        return Finding("next boot", "ok" if same else "note", text, hint)
    if failed := refusals(policy, tee, fields, workload):
        hint = "add it before the reboot: tee-agent policy predict --policy FILE, then tas policy put"
        return Finding("next boot", "PROBLEM", f"{text}; policy {policy.policy_id} refuses it: {failed[0]}", hint)
    return Finding("next boot", "ok", f"{text}; policy {policy.policy_id} accepts it")


def _changed(fields: Fields, workload: Workload) -> str:
    return ", ".join(f"{name} {value[:16]}..." for name, value in workload.items() if fields[name] != value)


def refusals(policy: Policy, tee: Tee, fields: Fields, workload: Workload) -> list[str]:
    """Why the policy would refuse this workload on this machine; TDX's statuses, which collateral tells, aside."""
    known = {**fields, **workload}
    if tee is Tee.TDX:
        known["tcb"] = dict.fromkeys(TCB_PARTS, UP_TO_DATE)
    return [f"{one.name}: {one.detail}" for one in evaluate(policy, known) if not one.ok]
