"""From what the admin asks of ``setup`` to the files it leaves: decided here, written elsewhere.

The configuration is made as text and parsed by the same parser that reads it in early boot: what that refuses is
never written. Settings of an older configuration that ``setup`` has no option for are kept.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.core.checks import At, service_url
from agent.core.config import TAS, Config, Pin, TasConfig, VolumeConfig, parse
from agent.core.configtext import HEADER, render
from agent.core.errors import ConfigError, UsageError

API_KEY = "tas-api-key"
CA_FILE = "tas-ca.pem"
"""Names beside the configuration file."""
CONFIG_MODE, API_KEY_MODE, CA_MODE = 0o644, 0o600, 0o644


@dataclass(frozen=True, slots=True)
class Change:
    """One file: what is there (None: nothing), and what should be."""

    path: Path
    mode: int
    new: bytes = field(repr=False)
    old: bytes | None = field(repr=False, default=None)

    @property
    def is_new(self) -> bool:
        return self.old is None

    @property
    def needed(self) -> bool:
        return self.old != self.new


def url(given: str) -> str:
    """The service's address. Raises ConfigError."""
    return service_url(given, At("--url", ""))


def pins(given: Sequence[str]) -> tuple[Pin, ...]:
    """Raises ConfigError."""
    found: tuple[Pin, ...] = TAS["pins"].check(list(given), At("--pin", ""))
    return found


def volume(given: str, policy_ids: Sequence[str], known: Mapping[str, VolumeConfig]) -> VolumeConfig:
    """A volume from ``NAME=DEVICE``; what a volume of that name was configured with stays. Raises UsageError."""
    name, separator, device = given.partition("=")
    if not separator or not name or not device:
        raise UsageError(
            f"--volume {given!r} is not NAME=DEVICE",
            hint="for example --volume root=/dev/vda3, with the name that /etc/crypttab has",
        )
    old = known.get(name)
    wanted = tuple(policy_ids) or (old.policy_ids if old else ())
    if not wanted:
        raise UsageError(
            f"volume {name} needs a policy", hint="--policy-id ID, the policy's name at the attestation service"
        )
    return replace(old or VolumeConfig(name, device, wanted), device=device, policy_ids=wanted)


def merged(old: Config | None, tas: TasConfig, volumes: Sequence[VolumeConfig], source: str) -> Config:
    """``old`` with this service and these volumes: one of the same name takes the old one's place."""
    base = old or Config(source)
    given = {one.name: one for one in volumes}
    kept = tuple(given.pop(one.name, one) for one in base.volumes)
    return replace(base, source=source, tas=_kept(base.tas, tas), volumes=(*kept, *given.values()))


def _kept(old: TasConfig | None, new: TasConfig) -> TasConfig:
    if old is None:
        return new
    return replace(old, url=new.url, pins=new.pins, api_key_file=new.api_key_file, ca_file=new.ca_file)


def text(config: Config) -> str:
    """The file's text. Raises ConfigError for what the parser refuses."""
    written = HEADER + "\n" + render(config, defaults=False)
    if parse(written, config.source) != config:
        raise ConfigError(f"{config.source}: would not be read as it was meant", code="config.value")
    return written


def difference(change: Change) -> str:
    """What would change in a text file, as a unified diff."""
    old, new = ((data or b"").decode("utf-8", "replace").splitlines(keepends=True) for data in (change.old, change.new))
    return "".join(difflib.unified_diff(old, new, f"{change.path} (there)", f"{change.path} (new)"))
