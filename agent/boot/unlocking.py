"""Opens the volumes of the boot: each by attestation, and those that failed by a typed passphrase, if that is allowed.

What speaks of an attack (a header outside the allow-list or with a wrong MAC, two disks of one identity) is never
answered with a prompt.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.boot import twins
from agent.boot.attestation import Secrets
from agent.boot.console import say
from agent.boot.early import Boot
from agent.boot.prompt import open_typed
from agent.boot.report import Outcome, Report
from agent.core import ports
from agent.core.config import VolumeConfig
from agent.core.errors import Conflict, HeaderRefused, HeaderTampered, TeeAgentError
from agent.deadline import Deadline
from agent.disk.device import opened
from agent.disk.unlock import Opened, unlock

NO_PROMPT = (HeaderRefused, HeaderTampered, Conflict)
CONFLICTS_TO_TYPE_THROUGH = ("conflict.policy",)
"""Not an attack, but a configuration that lost track of a binding: a passphrase is the way back."""
_MISSING = "disk.missing"


def run(boot: Boot, report: Report) -> None:
    """Open all volumes of ``boot``. Raises what forbids to go on."""
    report.mark("imported")
    secrets = Secrets(boot.config, boot.network, boot.modules, boot.key, report)
    if boot.config.boot.root_check:
        twins.none_yet(boot.root, boot.deadline)
    failed = []
    for volume in boot.volumes:
        outcome = Outcome(volume.name, volume.device)
        report.volumes.append(outcome)
        try:
            _attested(volume, secrets, boot.deadline, outcome)
        except TeeAgentError as error:
            outcome.failed(error)
            if not _may_prompt(volume, error):
                raise
            failed.append((volume, outcome, error))
        else:
            report.mark("mapped")
    for volume, outcome, cause in failed:
        report.save()
        _typed(volume, cause, Deadline(boot.config.boot.prompt_seconds, "waiting for a passphrase"), outcome)
        report.mark("mapped")
    report.outcome = "unlocked"


def _may_prompt(volume: VolumeConfig, error: TeeAgentError) -> bool:
    if volume.fallback == "halt" or error.code == _MISSING:
        return False
    return not isinstance(error, NO_PROMPT) or error.code in CONFLICTS_TO_TYPE_THROUGH


def _attested(volume: VolumeConfig, secrets: Secrets, deadline: ports.Deadline, outcome: Outcome) -> None:
    twins.wait_for(volume.device, deadline)
    with opened(volume.device) as device:
        twins.one_luks(device.header().uuid)
    done = unlock(volume, fetch=secrets.fetch, deadline=deadline)
    outcome.policy_id = done.key_id
    _opened(outcome, "attestation", done)


def _typed(volume: VolumeConfig, cause: TeeAgentError, deadline: ports.Deadline, outcome: Outcome) -> None:
    done, outcome.pinned = open_typed(volume, cause, deadline)
    _opened(outcome, "passphrase", done)


def _opened(outcome: Outcome, how: str, done: Opened) -> None:
    outcome.how, outcome.uuid, outcome.slot = how, done.uuid, done.slot
    if done.mapped:
        number = Path(done.mapped).stat().st_rdev
        outcome.devno = f"{os.major(number)}:{os.minor(number)}"
    say("ok", f"volume {outcome.name} opened by {how}{f' ({done.note})' if done.note else ''}")
