"""The configuration tree, and what is refused in it. Pure: text in, frozen values out.

Every key, its check and its help stand in one table per section (``SECTIONS``). An unknown key, a wrong type, plain
http to another machine, or https without pins is a ConfigError that names file and key. Nothing here weakens a
check, and nothing about trust comes from anywhere else (DESIGN.md, I4).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from agent.core import checks
from agent.core.auditconfig import ROWS as AUDIT_ROWS
from agent.core.auditconfig import AuditConfig
from agent.core.checks import At
from agent.core.cmdline import DEFAULT_ALLOW, allowed_word
from agent.core.daemonconfig import ROWS as DAEMON_ROWS
from agent.core.daemonconfig import DaemonConfig
from agent.core.errors import ConfigError
from agent.core.measuredconfig import ROWS as MEASURED_ROWS
from agent.core.measuredconfig import MeasuredConfig
from agent.core.sealconfig import SEALING_ROWS, SECRET_ROWS, SealingConfig, SecretConfig, require_consistent, secrets
from agent.core.vendorconfig import EndorsementsConfig

PolicyField = Literal["policy-id", "key-id"]
DEFAULT_FIELD: PolicyField = "policy-id"
MAX_BYTES = 256 * 1024
"""Bytes of a configuration file at the most."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Whom to believe at the other end: SHA-256 (32 bytes) of a SubjectPublicKeyInfo.

    ``spki`` is the server's own key: dates and names don't matter. ``ca`` is a certificate authority's: chain,
    name and time are checked. Text form ``spki:sha256:<64 hex>`` or ``ca:sha256:<64 hex>``.
    """

    kind: Literal["spki", "ca"]
    sha256: bytes

    def __str__(self) -> str:
        return f"{self.kind}:sha256:{self.sha256.hex()}"


@dataclass(frozen=True, slots=True)
class TasConfig:
    """The attestation service. ``deadline_seconds`` covers one whole secret, retries included."""

    url: str
    pins: tuple[Pin, ...]
    api_key_file: Path
    ca_file: Path | None = None
    secret_field: PolicyField = DEFAULT_FIELD
    deadline_seconds: float = 60.0
    connect_seconds: float = 10.0
    request_seconds: float = 20.0
    answer_bytes: int = 64 * 1024
    attempts: int = 8


@dataclass(frozen=True, slots=True)
class EvidenceConfig:
    """Where evidence comes from. ``quote_seconds`` covers one piece of evidence: lock, stalls and retries."""

    interface: Literal["auto", "configfs-tsm", "sev-guest", "tdx-guest"] = "auto"
    tsm_root: Path = Path("/sys/kernel/config/tsm/report")
    sev_device: Path = Path("/dev/sev-guest")
    tdx_device: Path = Path("/dev/tdx_guest")
    qgs_port: int = 4050
    lock_file: Path = Path("/run/tee-agent/quote.lock")
    quote_seconds: float = 30.0
    endorsements: Path = Path("/var/lib/tee-agent/endorsements")


@dataclass(frozen=True, slots=True)
class VolumeConfig:
    """A bound volume: ``device`` is a path or ``UUID=...``; ``policy_ids`` are the current one and the next.

    ``initramfs`` says whether early boot opens it (None: if the initramfs's crypttab names it); ``volume_key`` pins
    which volume a typed passphrase may open (32 bytes, agent.disk.pin).
    """

    name: str
    device: str
    policy_ids: tuple[str, ...]
    fallback: Literal["prompt", "halt"] = "prompt"
    initramfs: bool | None = None
    volume_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class BootConfig:
    """Early boot. What it says counts as it stands in the initramfs, never as it stands on a disk (DESIGN.md, I4)."""

    deadline_seconds: float = 90.0
    prompt_seconds: float = 300.0
    ip: str = "dhcp"
    root: str = ""
    root_check: bool = True
    stop: Literal["halt", "poweroff", "reboot"] = "halt"
    cmdline_allow: tuple[str, ...] = DEFAULT_ALLOW


@dataclass(frozen=True, slots=True)
class Config:
    """The whole tree. ``source`` is the file it came from, for messages."""

    source: str
    tas: TasConfig | None = None
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    endorsements: EndorsementsConfig = field(default_factory=EndorsementsConfig)
    measured: MeasuredConfig = field(default_factory=MeasuredConfig)
    volumes: tuple[VolumeConfig, ...] = ()
    boot: BootConfig = field(default_factory=BootConfig)
    sealing: SealingConfig = field(default_factory=SealingConfig)
    secrets: tuple[SecretConfig, ...] = ()
    daemon: DaemonConfig = field(default_factory=DaemonConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section: how its value is checked, and what the manual says."""

    check: Callable[[Any, At], Any]
    help: str
    required: bool = False


def _pin(value: Any, at: At) -> Pin:
    kind, sha256 = checks.pin(value, at)
    return Pin(cast(Literal["spki", "ca"], kind), sha256)


TAS = {
    "url": Key(checks.service_url, "address of the service: https://HOST[:PORT][/PREFIX]", required=True),
    "pins": Key(checks.several(_pin, least=0, most=8), "keys believed at that address, current and next"),
    "ca_file": Key(checks.path, "PEM file with the certificate authorities that ca: pins name"),
    "api_key_file": Key(checks.path, "file with the client API key (an identifier, no secret)", required=True),
    "secret_field": Key(checks.choice("policy-id", "key-id"), "name of the field that carries the policy id"),
    "deadline_seconds": Key(checks.seconds(1, 3600), "for one secret, all retries included"),
    "connect_seconds": Key(checks.seconds(0.1, 600), "for one TCP and TLS handshake"),
    "request_seconds": Key(checks.seconds(0.1, 600), "for one request and its answer"),
    "answer_bytes": Key(checks.integer(1024, 1 << 20), "of one answer's body at the most"),
    "attempts": Key(checks.integer(1, 100), "tries for one secret at the most"),
}
EVIDENCE = {
    "interface": Key(checks.choice("auto", "configfs-tsm", "sev-guest", "tdx-guest"), "the kernel interface to ask"),
    "tsm_root": Key(checks.path, "the kernel's report interface (configfs-tsm)"),
    "sev_device": Key(checks.path, "the SEV-SNP guest driver's device"),
    "tdx_device": Key(checks.path, "the TDX guest driver's device"),
    "qgs_port": Key(checks.integer(1, (1 << 32) - 2), "vsock port of the host's quote service, for `tdx_device`"),
    "lock_file": Key(checks.path, "held while evidence is made, machine-wide"),
    "quote_seconds": Key(checks.seconds(1, 600), "for one piece of evidence, waiting and retries included"),
    "endorsements": Key(checks.path, "folder with the vendor's certificates, CRLs and TCB information"),
}
ENDORSEMENTS = {
    "fetch": Key(checks.boolean, "let the daily timer ask the vendor's service (else: only when told to by hand)"),
    "kds_url": Key(checks.service_url, "AMD's key distribution service, or a mirror of it"),
    "pcs_url": Key(checks.service_url, "Intel's provisioning certification service, or a PCCS"),
    "proxy": Key(checks.proxy_url, "http://HOST:PORT that https goes through"),
    "ca_file": Key(checks.path, "PEM file with authorities believed there instead of the system's"),
    "seconds": Key(checks.seconds(1, 3600), "for one run, waiting for the service's rate included"),
    "keep_days": Key(checks.integer(2, 3650), "before what was neither confirmed nor used is removed"),
}
VOLUME = {
    "name": Key(checks.name, "device-mapper name", required=True),
    "device": Key(checks.device, "absolute path or UUID=...", required=True),
    "policy_ids": Key(
        checks.several(checks.policy_id, least=1, most=2), "policy of the secret, current and next", required=True
    ),
    "fallback": Key(checks.choice("prompt", "halt"), "what happens when the secret does not come"),
    "initramfs": Key(checks.boolean, "opened in early boot (else: if crypttab wants it there)"),
    "volume_key": Key(checks.sha256, "which volume a typed passphrase may open: `sha256:`*HEX* (else: any)"),
}
BOOT = {
    "deadline_seconds": Key(checks.seconds(5, 3600), "for network and all secrets together"),
    "prompt_seconds": Key(checks.seconds(5, 86_400), "for somebody to type a passphrase, then the machine stops"),
    "ip": Key(checks.network, "network in early boot: `dhcp`, `none`, or as for the kernel's `ip=`"),
    "root": Key(checks.text(256), "the only value of `root=` on the command line (else: any)"),
    "root_check": Key(checks.boolean, "root must lie on a volume that was opened in this boot"),
    "stop": Key(checks.choice("halt", "poweroff", "reboot"), "how the machine stops when it must not go on"),
    "cmdline_allow": Key(
        checks.several(allowed_word, least=1, most=64), "words of the kernel command line; with = at the end, any value"
    ),
}
MEASURED = {name: Key(check, text) for name, (check, text) in MEASURED_ROWS.items()}
AUDIT = {name: Key(check, text) for name, (check, text) in AUDIT_ROWS.items()}
DAEMON = {name: Key(check, text) for name, (check, text) in DAEMON_ROWS.items()}
SECTIONS: Mapping[str, Mapping[str, Key]] = {
    "tas": TAS,
    "evidence": EVIDENCE,
    "endorsements": ENDORSEMENTS,
    "measured": MEASURED,
    "volume": VOLUME,
    "boot": BOOT,
    "sealing": {name: Key(check, text) for name, (check, text) in SEALING_ROWS.items()},
    "secrets": {name: Key(check, text, required=True) for name, (check, text) in SECRET_ROWS.items()},
    "daemon": DAEMON,
    "audit": AUDIT,
}


def parse(text: str, source: str) -> Config:
    """The tree in ``text`` (TOML). ``source`` names it in messages. Raises ConfigError."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise ConfigError(f"{source}: not valid TOML: {str(error)[:300]}", code="config.syntax") from error
    top = At(source, "")
    checks.known(document, SECTIONS, top)
    tas = _section(document, "tas", source)
    config = Config(
        source=source,
        tas=None if tas is None else _peer_checked(TasConfig(**{"pins": (), **tas}), source),
        evidence=EvidenceConfig(**(_section(document, "evidence", source) or {})),
        endorsements=EndorsementsConfig(**(_section(document, "endorsements", source) or {})),
        measured=MeasuredConfig(**(_section(document, "measured", source) or {})),
        volumes=_volumes(document.get("volume", []), source),
        boot=BootConfig(**(_section(document, "boot", source) or {})),
        sealing=SealingConfig(**(_section(document, "sealing", source) or {})),
        secrets=secrets(document.get("secrets", {}), partial(_table, keys=SECTIONS["secrets"]), source),
        daemon=DaemonConfig(**(_section(document, "daemon", source) or {})),
        audit=AuditConfig(**(_section(document, "audit", source) or {})),
    )
    require_consistent(config)
    return config


def _section(document: Mapping[str, Any], name: str, source: str) -> dict[str, Any] | None:
    if name not in document:
        return None
    return _table(document[name], At(source, name), SECTIONS[name])


def _table(value: Any, at: At, keys: Mapping[str, Key]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise at.wrong("a table", value)
    checks.known(value, keys, at)
    for name, key in keys.items():
        if key.required and name not in value:
            raise at.under(name).refuse("is required", hint=key.help, code="config.missing")
    return {name: keys[name].check(given, at.under(name)) for name, given in value.items()}


def _volumes(value: Any, source: str) -> tuple[VolumeConfig, ...]:
    if not isinstance(value, list):
        raise At(source, "volume").wrong("an array of tables ([[volume]])", value)
    volumes = tuple(
        VolumeConfig(**_table(table, At(source, f"volume[{index}]"), VOLUME)) for index, table in enumerate(value)
    )
    for what in ("name", "device"):
        seen = [getattr(volume, what) for volume in volumes]
        for index, given in enumerate(seen):
            if given in seen[:index]:
                raise At(source, f"volume[{index}].{what}").refuse(f"{given} is named twice")
    return volumes


def _peer_checked(tas: TasConfig, source: str) -> TasConfig:
    """What must hold between keys: who is believed, and how."""
    pins, ca_file = At(source, "tas.pins"), At(source, "tas.ca_file")
    if tas.url.startswith("http:"):
        if tas.pins:
            raise pins.refuse("pins mean nothing over plain http", hint="use https, or leave the pins out")
        return tas
    if not tas.pins:
        raise pins.refuse(
            "an https service needs at least one pin",
            hint='pins = ["spki:sha256:<hex>"]: SHA-256 of the server\'s public key (SubjectPublicKeyInfo, DER)',
            code="config.unsafe",
        )
    by_ca = any(pin.kind == "ca" for pin in tas.pins)
    if by_ca and tas.ca_file is None:
        raise ca_file.refuse("is required by a ca: pin", code="config.missing")
    if tas.ca_file is not None and not by_ca:
        raise ca_file.refuse("is not used: no pin is a ca: pin", hint="remove it, or pin the authority")
    return tas
