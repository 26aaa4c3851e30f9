"""The scenarios: what is plugged in, what the world outside does, what somebody types, and what must come of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.vm.clones import RUNS as ATTACKER_RUNS
from tests.vm.image import FILESYSTEM_UUID

CMDLINE = "root=/dev/mapper/root ro console=ttyS0"
Flavour = Literal["agent", "plain", "purged"]
Service = Literal["serving", "refusing", "down", "cut off"]
"""serving; refusing: its policy wants another measurement; down: nobody listens; cut off: packets vanish."""
Disks = Literal["root", "null cipher", "filesystem clone", "luks clone"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One boot.

    ``interface``: what the kernel shows of the TEE: configfs-tsm, or its device only.
    ``types``: what somebody does at the console, in order: a text to wait for, and what is typed then.
    ``ends``: how it must end. ``shows`` and ``never_shows``: what a person at the console must see, must not see.
    ``facts``: dotted path into the judge's report, and the value (or pattern of the text) there. ``released``: whether the service gave the
    secret away. ``config``: lines of the configuration inside the initramfs, replaced.
    """

    about: str
    flavour: Flavour = "agent"
    tee: Literal["snp", "tdx", "genuine"] = "snp"
    interface: Literal["configfs", "device"] = "configfs"
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
    seconds: float = 600.0


BOOTED = {"root.mapped": "root", "root.kind": "CRYPT", "root.on": ["root-disk"], "login.getty": "active"}
OPENED = {
    **BOOTED,
    "boot.report.outcome": "unlocked",
    "boot.report.root": ["root"],
    "boot.mode": "644",
    "boot.headers_left": [],
}
TYPED = {**OPENED, "boot.report.volumes.0.how": "passphrase"}

ATTESTED = {
    **OPENED,
    "boot.report.volumes.0.how": "attestation",
    "boot.report.volumes.0.code": "",
    "login.failed": [],
    "status.exit": 0,
    "status.said.healthy": True,
    "status.said.boot.volumes.0.how": "attestation",
    "sign.permitted": "200",
    "sign.stranger": "403",
    "sign.noise": ["200", "200", "200"],
    "sign.permitted_after_noise": "200",
}


def device(interface: str, node: str) -> dict[str, Any]:
    """The node outlived early boot as root's alone, nothing else gave evidence, and status says so."""
    return {"boot.provider": "", "boot.nodes": {node: "600"}, "status.said.tee.interface": interface}


PROBES = ("root", "boot", "login", "status", "sign", "journal", "times")
NO_SERVICE = re.compile(r"transport(\.deadline)?")
"""The last try's failure, or the deadline that came first."""
STOPPED = ("halted",)
_NO_PROMPT = ("Passphrase of root", "unlock disk root", "(initramfs)", "login:")
"""What a machine that must not boot shows at no time: a prompt of ours or of cryptsetup's, a shell, a login."""

SCENARIOS: dict[str, Scenario] = {
    "plain-passphrase": Scenario(
        "the harness itself: no agent installed, a typed passphrase boots",
        flavour="plain",
        types=(("unlock disk root", "PASSPHRASE\n"),),
        facts=BOOTED,
    ),
    "plain-changed-root": Scenario(
        "the harness itself: without the agent the host's plain disk does become root, as changed-root must not",
        flavour="plain",
        disks="filesystem clone",
        cmdline=CMDLINE.replace("/dev/mapper/root", "/dev/vda"),
        types=(("unlock disk root", "PASSPHRASE\n"),),
        judged=False,
        shows=(ATTACKER_RUNS,),
    ),
    "snp-unattended": Scenario(
        "SEV-SNP: nobody at the console, up to a login; signs for those who may, and the bundle verifies outside",
        probes=PROBES,
        never_shows=("Passphrase of root", "unlock disk root"),
        facts=ATTESTED,
        released=True,
        verifies_bundle=True,
    ),
    "tdx-unattended": Scenario(
        "TDX: the same",
        tee="tdx",
        probes=PROBES,
        never_shows=("Passphrase of root", "unlock disk root"),
        facts=ATTESTED,
        released=True,
        verifies_bundle=True,
    ),
    "snp-ioctl": Scenario(
        "SEV-SNP on a kernel whose configfs-tsm has no provider: all the same through /dev/sev-guest, throttled once",
        interface="device",
        simulator=("--fault", "ebusy:1"),
        probes=PROBES,
        never_shows=("Passphrase of root", "unlock disk root"),
        facts={**ATTESTED, **device("sev-guest", "/dev/sev-guest")},
        released=True,
        verifies_bundle=True,
    ),
    "tdx-ioctl-qgs": Scenario(
        "TDX on such a kernel: through /dev/tdx_guest and the host's quote service over vsock, which hangs up once",
        tee="tdx",
        interface="device",
        simulator=("--fault", "qgs-silent"),
        probes=PROBES,
        never_shows=("Passphrase of root", "unlock disk root"),
        facts={**ATTESTED, **device("tdx-guest", "/dev/tdx_guest")},
        released=True,
        verifies_bundle=True,
    ),
    "tas-down": Scenario(
        "nobody listens at the service's address: the reason, our own prompt, and status tells afterwards",
        service="down",
        config={"deadline_seconds = 90": "deadline_seconds = 20"},
        probes=PROBES,
        types=(("this console is visible to the host", ""), ("Passphrase of root", "PASSPHRASE\n")),
        shows=("tee-agent: [transport",),
        never_shows=("unlock disk root",),
        facts={
            **TYPED,
            "boot.report.volumes.0.code": NO_SERVICE,
            "status.said.boot.volumes.0.how": "passphrase",
            "status.said.boot.volumes.0.code": NO_SERVICE,
            "status.said.healthy": False,
            "sign.permitted": "200",
        },
    ),
    "tas-cut-off": Scenario(
        "packets to the service vanish: the deadline holds",
        service="cut off",
        config={"deadline_seconds = 90": "deadline_seconds = 20"},
        types=(("this console is visible to the host", ""), ("Passphrase of root", "PASSPHRASE\n")),
        shows=("tee-agent: [transport",),
        never_shows=("unlock disk root",),
        facts=TYPED,
    ),
    "tas-refuses": Scenario(
        "the service's policy wants another measurement: no secret, the reason, our own prompt",
        service="refusing",
        types=(("tee-agent: [denied", ""), ("Passphrase of root", "PASSPHRASE\n")),
        never_shows=("unlock disk root",),
        facts=TYPED,
        released=False,
    ),
    "fallback-halt": Scenario(
        "the service refuses and the configuration says halt: no prompt",
        service="refusing",
        config={'fallback = "prompt"': 'fallback = "halt"'},
        ends=STOPPED,
        judged=False,
        shows=("tee-agent: [denied",),
        never_shows=_NO_PROMPT,
        released=False,
    ),
    "null-cipher": Scenario(
        "a header that says the volume is not encrypted: refused, nothing asked, nobody contacted",
        disks="null cipher",
        ends=STOPPED,
        judged=False,
        shows=("tee-agent: [disk.header",),
        never_shows=_NO_PROMPT,
        released=False,
    ),
    "filesystem-clone": Scenario(
        "a plain disk with the root's file system UUID, and root= by that UUID",
        disks="filesystem clone",
        cmdline=CMDLINE.replace("/dev/mapper/root", f"UUID={FILESYSTEM_UUID}"),
        ends=STOPPED,
        judged=False,
        shows=("tee-agent: [conflict.twin", "/dev/vda"),
        never_shows=(*_NO_PROMPT, ATTACKER_RUNS),
        released=False,
    ),
    "luks-clone": Scenario(
        "a second disk with the volume's LUKS UUID: refused, both named",
        disks="luks clone",
        ends=STOPPED,
        judged=False,
        shows=("tee-agent: [conflict.twin", "/dev/vda and /dev/vdb"),
        never_shows=_NO_PROMPT,
        released=False,
    ),
    "changed-root": Scenario(
        "root= names the host's plain disk: the volume is opened, and closed again before root is entered",
        disks="filesystem clone",
        cmdline=CMDLINE.replace("/dev/mapper/root", "/dev/vda"),
        ends=STOPPED,
        judged=False,
        shows=("tee-agent: [verify.root",),
        never_shows=(*_NO_PROMPT, ATTACKER_RUNS),
    ),
    **{
        f"cmdline-{name}": Scenario(
            f"{word} on the command line: refused before anything is asked for",
            cmdline=f"{CMDLINE} {word}",
            ends=STOPPED,
            judged=False,
            shows=shows,
            never_shows=_NO_PROMPT,
            released=False,
        )
        for name, word, shows in (
            ("break", "break=premount", ("tee-agent: [stop]",)),
            ("init", "init=/bin/sh", ("tee-agent: [denied.cmdline", "init=/bin/sh")),
            ("rescue", "rescue", ("tee-agent: [denied.cmdline", "rescue")),
        )
    },
    "no-provider": Scenario(
        "a genuine configfs-tsm and no TEE behind it: the kernel's ENXIO, and what it means",
        tee="genuine",
        probes=("root", "boot", "login", "status", "times"),
        types=(("tee-agent: [platform", ""), ("Passphrase of root", "PASSPHRASE\n")),
        facts={
            **TYPED,
            "boot.tsm": True,
            "boot.report.volumes.0.code": "platform.no-tee.provider",
            "status.said.tee.problem.code": "platform.no-tee.provider",
        },
        released=False,
    ),
    "purged": Scenario(
        "our packages installed and purged again: the machine boots with its passphrase, as if they had never been",
        flavour="purged",
        probes=("root", "login", "installed", "times"),
        types=(("unlock disk root", "PASSPHRASE\n"),),
        never_shows=("tee-agent:",),
        facts={**BOOTED, "installed.packages": []},
    ),
}
