"""Measurements computed from files: SNP's launch digest, TDX's RTMR1 and RTMR2. The admin's side of snp and tdx.

A workload is what a policy pins: the names of agent.core.policy.WORKLOAD, 48 bytes as hex each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import snp.launch
import snp.ovmf
import snp.vmsa
import tdx.eventlog
import tdx.predict
import tdx.predictboot
from agent import rtmr
from agent.admin import bootfiles
from agent.admin.bootfiles import Files
from agent.core.errors import UsageError
from agent.core.measuredconfig import MeasuredConfig
from agent.verify.eventlog import MAX_LOG
from agent.verify.files import chunks, read_file

MAX_IMAGE = 512 << 20
"""Bytes of a kernel, an initramfs or a unified image at the most."""
Workload = Mapping[str, str]
Fields = Mapping[str, Any]
Launch = snp.launch.Launch
Log = tdx.eventlog.Log
Parts = tdx.predictboot.Parts
INITRD, COMMAND_LINE, UNIFIED = tdx.predictboot.INITRD, tdx.predictboot.COMMAND_LINE, tdx.predictboot.UNIFIED


@dataclass(frozen=True, slots=True)
class Outlook:
    """A predicted workload, and in words what it rests on."""

    workload: Workload
    notes: tuple[str, ...] = ()


def processor(text: str) -> int:
    """A signature from a model's name, or from a number. Raises UsageError."""
    if text in snp.vmsa.SIGNATURES:
        return snp.vmsa.SIGNATURES[text]
    try:
        return int(text, 0)
    except ValueError:
        known = ", ".join(snp.vmsa.SIGNATURES)
        raise UsageError(f"processor {text[:40]!r} is not known", hint=f"a number, or: {known}") from None


def launch(config: MeasuredConfig) -> Launch:
    """How the host starts this machine; what is not said is asked of the processors. Raises UsageError."""
    cpu = processor(config.vcpu_type) if config.vcpu_type else snp.vmsa.signature(*bootfiles.processor())
    vcpus = config.vcpus if config.vcpus is not None else bootfiles.processors()
    return Launch(vcpus, cpu, config.guest_features, snp.vmsa.Vmm(config.vmm))


def measurement(ovmf: Path, how: Launch, files: Files | None) -> Workload:
    """SNP's workload. ``files`` None: kernel, initramfs and command line are not measured by the launch.

    Raises UsageError, FormatError, Oversized.
    """
    firmware = snp.ovmf.parse(read_file(str(ovmf), snp.ovmf.MAX_BYTES))
    hashes = None
    if files is not None and files.kernel is not None:
        # What OVMF adds to the line comes after the measurement.
        cmdline = (files.cmdline or "").removesuffix(tdx.predictboot.QEMU_INITRD)
        hashes = snp.launch.KernelHashes.of(_sha256(files.kernel), _sha256(files.initrd), cmdline)
    return {"measurement": snp.launch.measurement(firmware, how, hashes).hex()}


def _sha256(path: Path | None) -> bytes:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks(str(path)) if path is not None else ():
        size += len(chunk)
        if size > MAX_IMAGE:
            raise UsageError(f"{path} has more than {MAX_IMAGE} bytes")
        digest.update(chunk)
    return digest.digest()


def event_log(path: Path | None) -> Log:
    """A boot's log, from a file or (None) the kernel's. Raises UsageError, FormatError, PlatformError."""
    return tdx.eventlog.parse(rtmr.read_event_log() if path is None else read_file(str(path), MAX_LOG))


def parts(files: Files) -> Parts:
    """What a log can hold of these files. Raises UsageError, FormatError, Oversized."""
    if files.uki is not None:
        return tdx.predictboot.unified(read_file(str(files.uki), MAX_IMAGE), files.cmdline)
    kernel = read_file(str(files.kernel), MAX_IMAGE) if files.kernel else None
    if kernel is not None and tdx.predictboot.is_unified(kernel):
        return tdx.predictboot.unified(kernel, files.cmdline)
    initrd = read_file(str(files.initrd), MAX_IMAGE) if files.initrd else None
    return tdx.predictboot.direct(kernel, initrd, files.cmdline, has_initrd=initrd is not None)


def registers(fields: Fields) -> dict[int, bytes]:
    """RTMR0 to 2 of evidence."""
    return {index: bytes.fromhex(fields[f"rtmr{index}"]) for index in tdx.predict.LAUNCH}


def require_replay(log: Log, fields: Fields) -> None:
    """Raises Conflict unless the log is that of the boot whose evidence this is."""
    tdx.predict.require_replay(log.events, registers(fields))


def explained(log: Log, now: Parts) -> set[str]:
    """The parts (by name) of these files that the log has."""
    return {one.part for one in tdx.predict.explain(log.events, now)}


def has_initrd(log: Log) -> bool:
    """Whether anything in the log says that it measured an initramfs."""
    return tdx.predict.mentions_initrd(log.events)


def next_boot(log: Log, fields: Fields, now: Parts, then: Parts) -> Outlook:
    """TDX's workload when ``then`` boots in place of ``now``. Raises Conflict (``conflict.prediction``)."""
    found = tdx.predict.predict(log.events, registers(fields), now, then)
    values = {f"rtmr{index}": value.hex() for index, value in found.rtmrs.items()}
    workload = {"mr_td": fields["mr_td"], "rtmr0": fields["rtmr0"], **values}
    return Outlook(workload, tuple(_said(found)))


def _said(found: tdx.predict.Prediction) -> Sequence[str]:
    exchanged = [f"event {one.number}, RTMR{one.register}: {one.part} ({one.form})" for one in found.found]
    return [*exchanged, f"{found.kept} other events of RTMR1 and RTMR2 stay; MRTD and RTMR0 are as they are now"]
