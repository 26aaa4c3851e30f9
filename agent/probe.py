"""Finds this machine's TEE and makes its source of evidence: beside agent.verify the one place that names both kinds.

Nothing stands in for a TEE that is not there: absence is an error with its cause (DESIGN.md, I1).
"""

from __future__ import annotations

import errno
import importlib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from agent.core.config import EvidenceConfig
from agent.core.errors import (
    DeadlineExceeded,
    DeviceMissing,
    FirmwareBusy,
    FormatError,
    NoTee,
    PermissionMissing,
    TeeAgentError,
)
from agent.core.model import Endorsements, Evidence, Tee
from agent.core.ports import QuoteSource
from agent.deadline import Deadline, within
from agent.diagnosis import Host, without_permission, without_provider, without_root
from agent.quotelock import QuoteLock
from agent.tsm import Entry, TsmSource

PROVIDERS = {"sev_guest": Tee.SNP, "tdx_guest": Tee.TDX}
"""The kernel's names (the ``provider`` attribute)."""
LOOK_SECONDS = 3.0
"""For status, which rather says "busy" than nothing."""


def find_source(config: EvidenceConfig, host: Host | None = None) -> tuple[Tee, QuoteSource]:
    """The TEE of this machine, and where its evidence comes from.

    Raises NoTee, DeviceMissing, PermissionMissing (exit 69) with the cause, FirmwareError (FirmwareBusy after
    ``quote_seconds``). Leaves no entry behind.
    """
    provider, _ = _look(config.tsm_root, host or Host(), config.quote_seconds)
    tee = PROVIDERS.get(provider)
    if tee is None:
        raise NoTee(f"the kernel's provider {provider[:40]!r} is not supported", hint="supported: sev_guest, tdx_guest")
    source = TsmSource(config.tsm_root, tee, QuoteLock(config.lock_file), seconds=config.quote_seconds)
    return tee, source


def describe(config: EvidenceConfig, host: Host | None = None) -> dict[str, Any]:
    """What is known of the TEE, for status; never raises, and needs no root for the parts that can be seen.

    Keys: tee (the service's name, or None), interface ("configfs-tsm"), root, provider, privlevel_floor, devices,
    modules, configfs, kernel_option, and problem ({code, message, hint}, or None).
    """
    host = host or Host()
    result: dict[str, Any] = {
        "tee": None,
        "interface": "configfs-tsm",
        "root": str(config.tsm_root),
        "provider": None,
        "privlevel_floor": None,
        "devices": [f"/dev/{name}" for name in host.devices()],
        "modules": host.modules(),
        "configfs": host.configfs(),
        "kernel_option": host.kernel_option(),
        "problem": None,
    }
    try:
        provider, floor = _look(config.tsm_root, host, min(LOOK_SECONDS, config.quote_seconds))
    except TeeAgentError as error:
        return {**result, "tee": _guess(host, error), "problem": _problem(error)}
    return {**result, "provider": provider, "privlevel_floor": floor, "tee": PROVIDERS.get(provider)}


def endorsements_of(evidence: Evidence) -> Endorsements:
    """Certificates that came with the evidence (SNP: the host's table). Hints from the host, to be verified later."""
    if evidence.tee is not Tee.SNP or not evidence.auxblob:
        return Endorsements()
    certificates = cast("Callable[[bytes], Endorsements]", importlib.import_module("snp.certtable").certificates)
    try:
        return certificates(evidence.auxblob)
    except FormatError:
        return Endorsements()  # a broken table helps nobody, and hurts nobody: the service fetches its own


def _look(root: Path, host: Host, seconds: float) -> tuple[str, int | None]:
    """Provider and privilege floor, by an entry made and removed again.

    While a report is being made the kernel lets everybody else wait, for as long as the host pleases: not longer
    than ``seconds`` here.
    """
    try:
        return within(Deadline(seconds, "probe"), "the evidence interface", lambda: _ask(root, host))
    except DeadlineExceeded as error:
        raise FirmwareBusy(f"{root}: {error.message}", hint="another request is being served; try again") from error


def _ask(root: Path, host: Host) -> tuple[str, int | None]:
    try:
        there = stat.S_ISDIR(root.stat().st_mode)
    except PermissionError as error:
        raise without_permission(root) from error
    except OSError:
        there = False
    if not there:
        raise without_root(root, host)
    try:
        with Entry(root, "probe") as entry:
            return entry.provider(), entry.privlevel_floor()
    except NoTee as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.ENXIO:
            raise without_provider(root, host) from error
        raise
    except PermissionMissing as error:
        raise without_permission(root) from error


def _guess(host: Host, error: TeeAgentError) -> str | None:
    """Without root the provider can't be read; the device node tells as much, where the kernel made one."""
    devices = host.devices()
    visible = isinstance(error, (PermissionMissing, DeviceMissing, FirmwareBusy)) and len(devices) == 1
    return next(iter(devices.values())) if visible else None


def _problem(error: TeeAgentError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "hint": error.hint}
