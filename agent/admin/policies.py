"""What `policy draft | predict | tighten` do: evidence and files in, policies and workloads out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.admin import inputs, measured, predict
from agent.admin.bootfiles import Files
from agent.admin.evidence import live
from agent.admin.measured import Boot
from agent.admin.predict import Outlook, Workload
from agent.boot import report
from agent.core import draft
from agent.core.config import Config
from agent.core.errors import TeeAgentError, UsageError
from agent.core.model import Tee
from agent.core.policy import WORKLOAD, Policy
from agent.deadline import Deadline
from agent.disk.measured import Measured
from agent.verify.evidence import MAX_BYTES as MAX_EVIDENCE
from agent.verify.evidence import parse_fields
from agent.verify.files import read_file

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Made:
    """A policy, and what the admin has to know of it."""

    policy: Policy
    notes: tuple[str, ...]


def drafted(config: Config, args: argparse.Namespace) -> Made:
    """The policy for what runs here and, where it can be told, for what boots next. Raises as live and draft."""
    tee, fields = evidence(config)
    also, said = _also(config, tee, fields)
    policy_id = args.policy_id or args.key_id
    policy = draft.draft(tee, fields, policy_id=policy_id, key_id=args.key_id, tcb=args.accept_tcb, also=also)
    return Made(policy, (*draft.remarks(tee, fields, also=len(also)), said))


def _also(config: Config, tee: Tee, fields: Fields) -> tuple[list[Workload], str]:
    """The next boot's workload where it is another one and can be told; and in words."""
    try:
        boot = measured.judged(config, tee, fields)
        outlook = measured.upcoming(config, tee, fields, boot)
    except TeeAgentError as error:
        return [], f"{error.message[:1].upper()}{error.message[1:]}."
    if outlook.workload == workload_of(tee, fields):
        return [], f"The next boot will measure the same ({outlook.notes[0]})."
    return [outlook.workload], f"The next boot is predicted: {'; '.join(outlook.notes)}."


def evidence(config: Config) -> tuple[Tee, Fields]:
    return live(config, Deadline(config.evidence.quote_seconds, "evidence"))


def workload_of(tee: Tee, fields: Fields) -> Workload:
    return {name: str(fields[name]) for name in WORKLOAD[tee]}


def predicted(config: Config, args: argparse.Namespace) -> tuple[Tee, Outlook]:
    """What the described boot will measure. With --ovmf nothing is asked of this machine.

    Raises UsageError, FormatError, Conflict (``conflict.prediction``), and what evidence raises.
    """
    if args.ovmf is not None:
        return Tee.SNP, _launched(config)
    tee, fields = _of_file(args.quote) if args.quote else evidence(config)
    now = inputs.running(args)
    boot = Boot(Measured("unknown", "named"), now) if now else measured.judged(config, tee, fields)
    return tee, measured.upcoming(config, tee, fields, boot)


def _launched(config: Config) -> Outlook:
    how = config.measured
    if how.ovmf is None or how.vcpus is None or not how.vcpu_type:
        raise UsageError(
            "an SNP launch is predicted from --ovmf, --vcpus and --vcpu-type",
            hint="and --kernel, --initrd, --append where the host boots them directly with hashes",
            code="usage.launch",
        )
    files = Files(how.kernel, how.initrd, how.cmdline) if how.kernel else None
    if files is None and (how.initrd or how.cmdline or how.uki):
        raise UsageError("an SNP launch measures a kernel with its initramfs and command line: --kernel is missing")
    return Outlook(predict.measurement(how.ovmf, predict.launch(how), files), measured.names(files))


def _of_file(name: str) -> tuple[Tee, Fields]:
    tee, _, fields = parse_fields(read_file(name, MAX_EVIDENCE))
    return tee, fields


def tightened(config: Config, policy: Policy) -> Made:
    """The policy for what runs here only. Raises UsageError (another kind of TEE), PolicyViolation, as live."""
    tee, fields = evidence(config)
    require_kind(policy, tee)
    notes = []
    boot = report.read()
    typed = [one["name"] for one in boot["volumes"] if one["how"] == "passphrase"] if boot else []
    if typed:
        notes.append(f"{', '.join(typed)} was opened by a typed passphrase in this boot, not by attestation.")
    return Made(draft.tighten(policy, workload_of(tee, fields)), tuple(notes))


def require_kind(policy: Policy, tee: Tee) -> None:
    """Raises UsageError for a policy of another kind of TEE."""
    if policy.tee is not tee:
        raise UsageError(f"the policy is for {policy.tee}, this is {tee}", code="usage.policy")


def described(config: Config, args: argparse.Namespace) -> Config:
    """The configuration with what the command line says of the next boot."""
    return replace(config, measured=inputs.merged(config.measured, args))
