"""The scenarios: what is plugged in, what the world outside does, what somebody types, and what must come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CMDLINE = "root=/dev/mapper/root ro console=ttyS0"
Flavour = Literal["agent", "plain", "purged"]
Service = Literal["serving", "refusing", "down", "cut off"]
"""serving; refusing: its policy wants another measurement; down: nobody listens; cut off: packets vanish."""
Disks = Literal["root", "null cipher", "filesystem clone", "luks clone"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One boot.

    ``types``: what somebody does at the console, in order: a text to wait for, and what is typed then.
    ``ends``: how it must end. ``shows`` and ``never_shows``: what a person at the console must see, must not see.
    ``facts``: dotted path into the judge's report, and the value there. ``released``: whether the service gave the
    secret away. ``config``: lines of the configuration inside the initramfs, replaced.
    """

    about: str
    flavour: Flavour = "agent"
    tee: Literal["snp", "tdx", "genuine"] = "snp"
    service: Service = "serving"
    disks: Disks = "root"
    cmdline: str = CMDLINE
    config: Mapping[str, str] = field(default_factory=dict)
    simulator: tuple[str, ...] = ()
    probes: tuple[str, ...] = ("root", "boot", "login", "times")
    types: tuple[tuple[str, str], ...] = ()
    ends: tuple[str, ...] = ("off",)
    shows: tuple[str, ...] = ()
    never_shows: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    released: bool | None = None
    judged: bool = True
    verifies_bundle: bool = False
    seconds: float = 180.0


BOOTED = {"root.mapped": "root", "root.kind": "CRYPT", "root.on": ["root-disk"], "login.getty": "active"}

SCENARIOS: dict[str, Scenario] = {
    "plain-passphrase": Scenario(
        "the harness itself: no agent installed, a typed passphrase boots",
        flavour="plain",
        types=(("unlock disk root", "PASSPHRASE\n"),),
        facts=BOOTED,
    ),
}
