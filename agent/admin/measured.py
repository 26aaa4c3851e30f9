"""Is this boot's initramfs measured, and what will the next boot measure? Answers for status, preflight, bind, draft.

Yes means: the value that the hardware signs is the one that these very files make (DESIGN.md, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.admin import bootfiles, predict
from agent.admin.bootfiles import Files
from agent.admin.evidence import live
from agent.admin.predict import Outlook
from agent.client import Client
from agent.core import ports
from agent.core.bundle import decode
from agent.core.config import Config
from agent.core.errors import Conflict, TeeAgentError
from agent.core.measuredconfig import MeasuredConfig
from agent.core.model import Tee
from agent.deadline import Deadline
from agent.disk.measured import Measured
from agent.verify.evidence import parse_fields

Fields = Mapping[str, Any]
_CONTEXT = "tee-agent status"


@dataclass(frozen=True, slots=True)
class Boot:
    """What is known of this boot: ``files`` are those that the hardware's values bear out (None: none do)."""

    measured: Measured
    files: Files | None = None


def looked(config: Config) -> Boot:
    """With evidence made for this. Never raises: what fails is the reason of ``unknown``."""
    try:
        return judged(config, *live(config, Deadline(config.evidence.quote_seconds, "evidence")))
    except TeeAgentError as error:
        return Boot(Measured("unknown", f"no evidence: {error.message}"))


def seen(config: Config, deadline: ports.Deadline) -> Measured:
    """Without a quote: with the evidence that the daemon has for its key. Never raises."""
    client = Client(config.daemon.runtime_dir / "agent.sock")
    try:
        bundle = decode(client.sign(iter((b"",)), context=_CONTEXT, audience="", deadline=deadline))
        tee, _, fields = parse_fields(bundle.attachments.blob)
    except TeeAgentError as error:
        return Measured("unknown", f"the agent gives no evidence: {error.message}")
    return judged(config, tee, fields).measured


def judged(config: Config, tee: Tee, fields: Fields) -> Boot:
    """What evidence says of this boot. Never raises."""
    try:
        return _snp(config.measured, fields) if tee is Tee.SNP else _tdx(config.measured, fields)
    except TeeAgentError as error:
        return Boot(Measured("unknown", error.message))


def upcoming(config: Config, tee: Tee, fields: Fields, boot: Boot) -> Outlook:
    """What the next boot will measure. Raises Conflict (``conflict.prediction``) and others: why it can't be told."""
    how = config.measured
    if tee is Tee.SNP:
        if boot.measured.state == "unknown" or how.ovmf is None:
            raise unpredictable(boot.measured.reason)
        then = bootfiles.coming(how, boot.files) if boot.files else None
        return Outlook(predict.measurement(how.ovmf, predict.launch(how), then), names(then))
    log = predict.event_log(how.event_log)
    # An initramfs that was made anew since the boot is not there any more: its place in the log may do.
    known = [boot.files] if boot.files else [replace(one, initrd=None) for one in bootfiles.running(how)]
    failed: TeeAgentError = unpredictable(boot.measured.reason)
    for number, files in enumerate(known):
        then = bootfiles.coming(how, files)
        try:
            found = predict.next_boot(log, fields, predict.parts(files), predict.parts(then))
        except TeeAgentError as error:
            failed = failed if number else error
            continue
        return Outlook(found.workload, (*names(then), *found.notes))
    raise failed


def unpredictable(reason: str) -> Conflict:
    return Conflict(
        f"the next boot can't be predicted: {reason}",
        hint="say what this machine is started with: [measured] in the configuration; docs/prediction.md",
        code="conflict.prediction",
    )


def names(files: Files | None) -> tuple[str, ...]:
    """A boot's files, in words."""
    if files is None:
        return ("the firmware alone: kernel, initramfs and command line are not measured",)
    if files.uki is not None:
        return (f"unified kernel image {files.uki}",)
    return (f"kernel {files.kernel}", f"initramfs {files.initrd or 'none'}", f"command line {files.cmdline}")


def _snp(config: MeasuredConfig, fields: Fields) -> Boot:
    if config.ovmf is None:
        return Boot(
            Measured(
                "unknown",
                "the firmware image to compare with is not named (ovmf in [measured]); the measurement covers the "
                "firmware for certain, and nothing here tells what else",
            )
        )
    how = predict.launch(config)
    alone = predict.measurement(config.ovmf, how, None)
    for files in bootfiles.running(config):
        if files.uki is None and _same(fields, config.ovmf, how, files):
            names = f"{files.kernel}, {files.initrd or 'no initramfs'} and this command line"
            return Boot(Measured("yes", f"the launch measurement is that of {config.ovmf}, {names}"), files)
    if alone["measurement"] == fields["measurement"]:
        return Boot(Measured("no", f"the launch measurement is that of {config.ovmf} alone"))
    return Boot(
        Measured(
            "unknown",
            f"the launch measurement is neither that of {config.ovmf} alone nor with a kernel and initramfs that are "
            "found here: another firmware, number or model of processors, kernel, initramfs or command line",
        )
    )


def _same(fields: Fields, ovmf: Path, how: predict.Launch, files: Files) -> bool:
    """A firmware without a place for hashes can't have been started so, nor with files that can't be read."""
    try:
        return predict.measurement(ovmf, how, files)["measurement"] == str(fields["measurement"])
    except TeeAgentError:
        return False


def _tdx(config: MeasuredConfig, fields: Fields) -> Boot:
    log = predict.event_log(config.event_log)
    try:
        predict.require_replay(log, fields)
    except Conflict as error:
        return Boot(Measured("unknown", error.message))
    reasons: list[str] = []
    for files, found in _explained(log, config, reasons):
        if predict.UNIFIED in found:
            return Boot(Measured("yes", f"RTMR1 has {files.uki or files.kernel}, as the event log says"), files)
        if {predict.INITRD, predict.COMMAND_LINE} <= found:
            reason = f"RTMR2 has {files.initrd} and this command line, as the event log says"
            return Boot(Measured("yes", reason), files)
    if not predict.has_initrd(log):
        return Boot(Measured("no", "the event log replays to the RTMRs, and has no initramfs and no unified image"))
    why = reasons[0] if reasons else "no kernel and initramfs are found here"
    return Boot(Measured("unknown", f"the event log has an initramfs, but none that is found here: {why}"))


def _explained(log: predict.Log, config: MeasuredConfig, reasons: list[str]) -> Iterator[tuple[Files, set[str]]]:
    for files in bootfiles.running(config):
        try:
            found = predict.explained(log, predict.parts(files))
        except TeeAgentError as error:
            reasons.append(error.message)
            continue
        reasons.append(f"of {files.uki or files.kernel} it has {', '.join(sorted(found)) or 'nothing'}")
        yield files, found
