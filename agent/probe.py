"""Finds this machine's TEE and makes its source of evidence: the composition root for both kinds.

Interfaces in order: the kernel's configfs-tsm, then the guest drivers' own devices; ``evidence.interface`` names one.
Nothing stands in for a TEE that is not there: absence is an error with its cause (DESIGN.md, I1).
"""

from __future__ import annotations

import errno
import importlib
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from agent.core import ports
from agent.core.config import EvidenceConfig
from agent.core.errors import (
    DeadlineExceeded,
    DeviceMissing,
    FirmwareBusy,
    FormatError,
    NoTee,
    PermissionMissing,
    PlatformError,
    TeeAgentError,
)
from agent.core.model import Endorsements, Evidence, Secret, Tee
from agent.core.ports import QuoteSource
from agent.deadline import Deadline, within
from agent.diagnosis import Host, without_permission, without_provider, without_root
from agent.quotelock import QuoteLock
from agent.tsm import Entry, TsmSource

PROVIDERS = {"sev_guest": Tee.SNP, "tdx_guest": Tee.TDX}
"""The kernel's names (the ``provider`` attribute)."""
CONFIGFS = "configfs-tsm"
DEVICES = {"sev-guest": ("agent.device.sev", "sev_guest"), "tdx-guest": ("agent.device.tdx", "tdx_guest")}
"""Interfaces that are a device: the module that speaks to it, and the provider it stands for."""
INTERFACES = (CONFIGFS, *DEVICES)
_TABLES = "snp.certtable"
"""What reads the host's certificate table: half of all machines have none."""
LOOK_SECONDS = 3.0
"""For status, which rather says "busy" than nothing."""


class DeviceModule(Protocol):
    """What agent.device.sev and agent.device.tdx have. ``sys`` is /sys. Imported when needed: most kernels don't."""

    def look(self, config: EvidenceConfig, sys: Path, /) -> int | None: ...

    def source(self, config: EvidenceConfig, lock: QuoteLock, sys: Path, /) -> QuoteSource: ...


class KeySource(Protocol):
    """What agent.device.sev.SevGuestSource has beside quotes."""

    def derived_key(self, fields: Iterable[str], *, deadline: ports.Deadline) -> Secret: ...


@dataclass(frozen=True, slots=True)
class Found:
    """The interface in use: the kernel's provider, the lowest privilege level, and why not each other interface."""

    interface: str
    provider: str
    privlevel_floor: int | None
    not_used: Mapping[str, str] = field(default_factory=dict)


def find_source(config: EvidenceConfig, host: Host | None = None) -> tuple[Tee, QuoteSource]:
    """The TEE of this machine, and where its evidence comes from.

    Raises NoTee, DeviceMissing, PermissionMissing (exit 69) with the cause, FirmwareError (FirmwareBusy after
    ``quote_seconds``). Leaves no entry behind.
    """
    host = host or Host()
    found = _find(config, host, config.quote_seconds)
    tee = PROVIDERS.get(found.provider)
    if tee is None:
        raise NoTee(
            f"the kernel's provider {found.provider[:40]!r} is not supported", hint="supported: sev_guest, tdx_guest"
        )
    lock = QuoteLock(config.lock_file)
    if found.interface != CONFIGFS:
        return tee, _device(found.interface).source(config, lock, host.sys)
    return tee, TsmSource(config.tsm_root, tee, lock, seconds=config.quote_seconds)


def derived_key_source(config: EvidenceConfig, tee: Tee, host: Host | None = None) -> KeySource:
    """Where keys that the chip derives come from: the guest driver's own device, whatever evidence comes by.

    Raises PlatformError where this machine has no such keys, DeviceMissing, PermissionMissing, FirmwareError.
    """
    host = host or Host()
    if tee is not Tee.SNP:
        raise PlatformError(
            f"{tee.value} has no keys that the chip derives for a guest",
            hint='[sealing] root = "snp-derived" is for AMD SEV-SNP: use "tas"',
            code="platform.derived-key",
        )
    device = _device("sev-guest")
    try:
        device.look(config, host.sys)
    except DeviceMissing as error:
        hint = '[sealing] root = "snp-derived" needs the driver\'s device, configfs-tsm has no such keys: or use "tas"'
        raise DeviceMissing(error.message, hint=hint) from error
    return cast("KeySource", device.source(config, QuoteLock(config.lock_file), host.sys))


def describe(config: EvidenceConfig, host: Host | None = None) -> dict[str, Any]:
    """What is known of the TEE, for status; never raises, and needs no root for the parts that can be seen.

    Keys: tee (the service's name, or None), interface (the one in use, or None), not_used (why not each other one),
    root, provider, privlevel_floor, devices, modules, configfs, kernel_option, and problem ({code, message, hint},
    or None).
    """
    host = host or Host()
    result: dict[str, Any] = {
        "tee": None,
        "interface": None,
        "not_used": {},
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
        found = _find(config, host, min(LOOK_SECONDS, config.quote_seconds))
    except TeeAgentError as error:
        return {**result, "tee": _guess(host, error), "problem": _problem(error)}
    return {
        **result,
        "tee": PROVIDERS.get(found.provider),
        "interface": found.interface,
        "not_used": dict(found.not_used),
        "provider": found.provider,
        "privlevel_floor": found.privlevel_floor,
    }


def preload() -> None:
    """What ``endorsements_of`` imports on first use: by then, who gave up root may be unable to read our files."""
    importlib.import_module(_TABLES)


def endorsements_of(evidence: Evidence) -> Endorsements:
    """Certificates that came with the evidence (SNP: the host's table). Hints from the host, to be verified later."""
    if evidence.tee is not Tee.SNP or not evidence.auxblob:
        return Endorsements()
    certificates = cast("Callable[[bytes], Endorsements]", importlib.import_module(_TABLES).certificates)
    try:
        return certificates(evidence.auxblob)
    except FormatError:
        return Endorsements()  # a broken table helps nobody, and hurts nobody: the service fetches its own


def _find(config: EvidenceConfig, host: Host, seconds: float) -> Found:
    """The first interface that can be used. Without one: what is wrong with the first."""
    if config.interface != "auto":
        found = _look(config.interface, config, host, seconds)
        unused = f'evidence.interface is "{config.interface}"'
        return _with_reasons(found, dict.fromkeys(INTERFACES, unused))
    missing: dict[str, PlatformError] = {}
    for name in INTERFACES:
        try:
            found = _look(name, config, host, seconds)
        except (NoTee, DeviceMissing) as error:
            missing[name] = error
        else:
            reasons = dict.fromkeys(INTERFACES, f"{name} comes first")
            return _with_reasons(found, reasons | {name: error.message for name, error in missing.items()})
    raise missing[CONFIGFS]


def _with_reasons(found: Found, reasons: Mapping[str, str]) -> Found:
    others = {name: reason for name, reason in reasons.items() if name != found.interface}
    return replace(found, not_used=others)


def _look(name: str, config: EvidenceConfig, host: Host, seconds: float) -> Found:
    """Provider and privilege floor of one interface: an entry is made and removed again, or a device opened.

    While a report is being made the kernel lets everybody else wait, for as long as the host pleases: not longer
    than ``seconds`` here.
    """
    if name == CONFIGFS:
        where, ask = config.tsm_root, partial(_ask, config.tsm_root, host)
    else:
        where, ask = Path("/dev"), partial(_open, name, config, host)
    try:
        provider, floor = within(Deadline(seconds, "probe"), "the evidence interface", ask)
    except DeadlineExceeded as error:
        raise FirmwareBusy(f"{where}: {error.message}", hint="another request is being served; try again") from error
    return Found(name, provider, floor)


def _device(name: str) -> DeviceModule:
    return cast("DeviceModule", importlib.import_module(DEVICES[name][0]))


def _open(name: str, config: EvidenceConfig, host: Host) -> tuple[str, int | None]:
    return DEVICES[name][1], _device(name).look(config, host.sys)


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
