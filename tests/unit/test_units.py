"""The systemd units: systemd accepts them, their exposure stays under the bars, and they agree with the code."""

from __future__ import annotations

import argparse
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent import rulefiles
from agent.commands import endorsements
from agent.core.auditconfig import AuditConfig
from agent.core.config import EvidenceConfig
from agent.core.daemonconfig import DaemonConfig
from agent.core.errors import ConfigError, Denied, PlatformError
from agent.daemon import auditdisk, fetcher, keydisk, names, sockets
from agent.settings import DEFAULT_PATH
from tests.support import tools

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
SERVICES = sorted(path.name for path in SYSTEMD.glob("*.service"))
UNITS = sorted(path.name for path in SYSTEMD.glob("tee-agent*"))
ROLES = {role: f"tee-agent-{role}.service" for role in names.ROLES}
SOCKETS = {names.SIGNER: "tee-agent.socket", names.FETCHER: "tee-agent-fetcher.socket"}
SSH = "tee-agent-ssh.socket"
BARS = {
    "tee-agent-signer.service": 13,
    "tee-agent-fetcher.service": 16,
    "tee-agent-quoter.service": 28,
    "tee-agent-unlock@.service": 28,
    "tee-agent-boot-report.service": 13,
    "tee-agent-endorsements.service": 16,
}
"""Exposure at the most, in tenths (issue: units as DESIGN.md section 5)."""

Unit = Mapping[str, list[str]]


def read(name: str) -> Unit:
    """All values of each key, in order, whatever the section."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in (SYSTEMD / name).read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def words(unit: Unit, key: str) -> list[str]:
    return [word for value in unit[key] for word in value.split()]


def test_every_service_has_a_bar() -> None:
    assert sorted(BARS) == SERVICES


def texts() -> dict[str, str]:
    return {name: (SYSTEMD / name).read_text() for name in UNITS}


def complaints(units: Mapping[str, str], folder: Path) -> list[str]:
    """What systemd says of them, the programs aside: those are not installed here."""
    for name, text in units.items():
        (folder / name).write_text(re.sub(r"^(ExecStart\w*=!?)/\S+", r"\1/bin/true", text, flags=re.MULTILINE))
    said = tools.output(
        tools.need("systemd-analyze"),
        "verify",
        "--man=no",
        *sorted(folder.iterdir()),
        environment={"SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_LOG_TARGET": "console"},
    )
    return [line for line in said.splitlines() if "tee-agent" in line]


def test_systemd_accepts_them(tmp_path: Path) -> None:
    assert complaints(texts(), tmp_path) == []


def test_systemd_would_complain(tmp_path: Path) -> None:
    units = texts()
    units["tee-agent-signer.service"] += "ProtectEverything=yes\n"
    assert complaints(units, tmp_path)


@pytest.mark.parametrize("name", BARS)
def test_exposure_stays_under_the_bar(name: str) -> None:
    analyze = tools.need("systemd-analyze")
    tools.output(analyze, "security", "--offline=true", f"--threshold={BARS[name]}", "--no-pager", SYSTEMD / name)


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_stay_off_the_disk(name: str) -> None:
    unit = read(name)
    assert unit["LimitCORE"] == ["0"]
    assert unit["MemorySwapMax"] == ["0"]
    assert unit["LimitMEMLOCK"] == ["infinity"]
    assert unit["NoNewPrivileges"] == ["yes"]


@pytest.mark.parametrize("role", names.ROLES)
def test_a_role_s_unit_starts_that_role(role: str) -> None:
    unit = read(ROLES[role])
    assert unit["ExecStart"] == [f"/usr/bin/tee-agent daemon --role {role}"]
    assert unit["Type"] == ["notify"]
    assert int(unit["WatchdogSec"][0]) >= 10
    statuses = {PlatformError.exit_status, Denied.exit_status, ConfigError.exit_status}
    assert {int(word) for word in words(unit, "RestartPreventExitStatus")} == statuses
    assert ROLES[role] in words(read("tee-agent.target"), "Wants")


def test_callers_stay_visible() -> None:
    # A user namespace turns every peer's uid into nobody's; hidden processes have no cgroup (agent.daemon.peers).
    for name in ROLES.values():
        assert read(name)["PrivateUsers"] == ["no"]
        assert read(name)["ProcSubset"] == ["all"]
    for role in (names.SIGNER, names.QUOTER):
        assert read(ROLES[role])["ProtectProc"] == ["default"]


def test_only_the_fetcher_has_a_network() -> None:
    for role in (names.SIGNER, names.QUOTER):
        assert read(ROLES[role])["PrivateNetwork"] == ["yes"]
    assert words(read(ROLES[names.SIGNER]), "RestrictAddressFamilies") == ["AF_UNIX"]
    assert "PrivateNetwork" not in read(ROLES[names.FETCHER])


ASKS = ["tee-agent-quoter.service", "tee-agent-unlock@.service"]
"""What makes evidence itself."""


def test_only_who_asks_for_evidence_reaches_devices_and_the_host() -> None:
    devices = {str(EvidenceConfig().sev_device), str(EvidenceConfig().tdx_device)}
    for name in SERVICES:
        allowed = {value.split()[0] for value in read(name)["DeviceAllow"]}
        assert (allowed >= devices) == (name in ASKS)
        assert ("AF_VSOCK" in words(read(name), "RestrictAddressFamilies")) == (name in ASKS)
    assert words(read(ROLES[names.QUOTER]), "RestrictAddressFamilies") == ["AF_UNIX", "AF_VSOCK"]


def test_no_role_has_a_capability() -> None:
    for name in ROLES.values():
        assert read(name)["CapabilityBoundingSet"] == [""]


def test_users_are_the_configuration_s_and_are_made() -> None:
    made = re.findall(r"^u (\S+)", (SYSTEMD / "sysusers.conf").read_text(), flags=re.MULTILINE)
    config = DaemonConfig()
    assert read(ROLES[names.SIGNER])["User"] == [config.signer_user]
    assert read(ROLES[names.FETCHER])["User"] == [config.fetcher_user]
    assert config.signer_user != config.fetcher_user
    assert "User" not in read(ROLES[names.QUOTER])
    assert sorted(made) == sorted({config.signer_user, config.fetcher_user})
    # The signer's group is the one that may sign.
    assert set(config.allow_groups) <= set(made)


@pytest.mark.parametrize("role", SOCKETS)
def test_sockets_are_where_the_roles_look(role: str) -> None:
    unit = read(SOCKETS[role])
    assert unit["ListenStream"] == [str(names.socket_path(DaemonConfig().runtime_dir, role))]
    assert unit["SocketMode"] == [f"{sockets.SOCKET_MODE:04o}"]
    assert unit["Service"] == [ROLES[role]]
    assert words(read(ROLES[role]), "Requires") == [SOCKETS[role]]


def test_the_socket_for_ssh_is_the_signer_s_and_comes_only_when_enabled() -> None:
    unit, usual = read(SSH), read(SOCKETS[names.SIGNER])
    assert unit["ListenStream"] == [str(DaemonConfig().runtime_dir / f"{names.SSH}.sock")]
    assert unit["WantedBy"] == ["tee-agent.target"]
    told = ("Description", "ListenStream", "WantedBy")
    assert {key: unit[key] for key in unit if key not in told} == {key: usual[key] for key in usual if key not in told}
    wanted = [
        word for name in UNITS for key in ("Wants", "Requires", "BindsTo", "Upholds") for word in words(read(name), key)
    ]
    assert SSH not in wanted
    rules = (SYSTEMD.parent / "packaging" / "debian" / "rules").read_text()
    assert SSH not in rules


def test_an_unconfigured_machine_starts_nothing() -> None:
    for name in [*ROLES.values(), *SOCKETS.values(), SSH, "tee-agent.target"]:
        assert read(name)["ConditionPathExists"] == [str(DEFAULT_PATH)]


def test_a_restart_of_the_target_reaches_every_part() -> None:
    for name in [*ROLES.values(), *SOCKETS.values(), SSH]:
        assert read(name)["PartOf"] == ["tee-agent.target"]


def test_the_fetcher_gets_the_key_it_looks_for() -> None:
    unit = read(ROLES[names.FETCHER])
    assert [value.partition(":")[0] for value in unit["LoadCredential"]] == [fetcher.CREDENTIAL]
    assert unit["SetCredential"] == [f"{fetcher.CREDENTIAL}:\\n"]


@pytest.mark.parametrize("name", ASKS)
def test_the_kernel_s_interface_can_be_written(name: str) -> None:
    unit = read(name)
    assert unit["ProtectKernelTunables"] == ["yes"]
    writable = [Path(word.lstrip("-")) for word in words(unit, "ReadWritePaths")]
    assert any(EvidenceConfig().tsm_root.is_relative_to(path) for path in writable)
    assert any(EvidenceConfig().lock_file.is_relative_to(path) for path in writable)


def test_folders_are_made_and_root_s() -> None:
    lines = (SYSTEMD / "tmpfiles.conf").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    made = {Path(row[1]) for row in rows}
    fetcher_user = DaemonConfig().fetcher_user
    owners = {Path(row[1]): row[2:5] for row in rows}
    assert owners.pop(EvidenceConfig().endorsements) == ["0755", fetcher_user, fetcher_user]
    signer_user = DaemonConfig().signer_user
    assert owners.pop(AuditConfig().folder) == [f"{auditdisk.FOLDER_MODE:04o}", signer_user, signer_user]
    assert owners.pop(DaemonConfig().keys_folder) == [f"{keydisk.FOLDER_MODE:04o}", signer_user, signer_user]
    assert set(map(tuple, owners.values())) == {("0755", "root", "root")}
    assert {DaemonConfig().runtime_dir, EvidenceConfig().endorsements, DEFAULT_PATH.parent} <= made
    assert DEFAULT_PATH.parent / rulefiles.FOLDER in made


def test_the_signer_takes_a_new_access_policy_and_can_t_write_one() -> None:
    unit = read(ROLES[names.SIGNER])
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert unit["ReadOnlyPaths"] == [str(DEFAULT_PATH.parent)]
    assert unit["ProtectSystem"] == ["strict"]
    assert "ReadWritePaths" not in unit


def test_the_signer_writes_its_audit_log_and_sealed_keys_and_nothing_else() -> None:
    unit = read(ROLES[names.SIGNER])
    assert [Path("/var/log") / word for word in words(unit, "LogsDirectory")] == [AuditConfig().folder]
    assert unit["LogsDirectoryMode"] == [f"{auditdisk.FOLDER_MODE:04o}"]
    assert [Path("/var/lib") / word for word in words(unit, "StateDirectory")] == [DaemonConfig().keys_folder]
    assert unit["StateDirectoryMode"] == [f"{keydisk.FOLDER_MODE:04o}"]
    writable = ("ReadWritePaths", "CacheDirectory", "RuntimeDirectory", "BindPaths")
    assert [key for key in writable if key in unit] == []


def test_the_vendor_is_asked_by_the_fetcher_s_user_and_only_if_the_configuration_says_so() -> None:
    unit = read("tee-agent-endorsements.service")
    assert unit["User"] == unit["Group"] == [DaemonConfig().fetcher_user]
    assert unit["CapabilityBoundingSet"] == [""]
    before, command = unit["ExecStartPre"][0], unit["ExecStart"][0]
    # Root without capabilities, in the same sandbox; "+" would be outside of it.
    assert before.startswith("!/usr/bin/tee-agent endorsements note ")
    note = cli_arguments(before)
    fetch = cli_arguments(command)
    assert note.scheduled
    assert fetch.scheduled
    assert str(note.file) == fetch.evidence
    writable = set(map(Path, words(unit, "ReadWritePaths")))
    assert writable == {DaemonConfig().runtime_dir, EvidenceConfig().endorsements}
    assert note.file.parent == DaemonConfig().runtime_dir


def cli_arguments(command: str) -> argparse.Namespace:
    """What the command's own parser makes of an ExecStart."""
    parser = argparse.ArgumentParser()
    endorsements.configure(parser)
    return parser.parse_args(command.split()[2:])


def test_the_timer_is_daily_and_its_service_is_nobody_s_part() -> None:
    timer = read("tee-agent-endorsements.timer")
    assert timer["OnCalendar"] == ["daily"]
    assert timer["Persistent"] == ["yes"]
    assert timer["ConditionPathExists"] == [str(DEFAULT_PATH)]
    assert timer["WantedBy"] == ["timers.target"]
    assert read("tee-agent-endorsements.service")["Type"] == ["oneshot"]


def test_nobody_else_asks_the_firmware() -> None:
    rules = (SYSTEMD / "udev.rules").read_text()
    assert 'KERNEL=="sev-guest|tdx_guest"' in rules
    assert 'MODE="0600"' in rules
    assert os.access(SYSTEMD / "udev.rules", os.X_OK) is False
