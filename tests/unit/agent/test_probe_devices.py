"""Which interface is used: configfs-tsm first, then the guest drivers' devices, or the one that is configured."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.config import EvidenceConfig, parse
from agent.core.errors import (
    ConfigError,
    DeviceMissing,
    FirmwareError,
    NoTee,
    PermissionMissing,
    TeeAgentError,
)
from agent.core.health import _tee
from agent.core.model import Tee
from agent.device.sev import SevGuestSource
from agent.device.tdx import TdxGuestSource
from agent.probe import INTERFACES, describe, find_source
from agent.tsm import TsmSource
from tests.unit.agent.test_probe import CONFIGFS, Machine
from tests.unit.device.driver import NULL, refused


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A kernel with neither configfs-tsm nor a device."""
    made = Machine(tmp_path)
    made.mounts(CONFIGFS)
    made.kernel("CONFIG_TSM_REPORTS=m")
    return made


def device(machine: Machine, name: str) -> None:
    """A character device that may be opened."""
    (machine.host.dev / name).symlink_to(NULL)


def vmpl(machine: Machine, text: str) -> None:
    path = machine.host.sys / "devices/system/cpu/sev/vmpl"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def provider(machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """configfs-tsm, with a driver behind it."""
    machine.root.mkdir()
    monkeypatch.setattr("agent.probe.Entry.provider", lambda _: name)


def refusal(machine: Machine, config: EvidenceConfig) -> TeeAgentError:
    with pytest.raises(TeeAgentError) as caught:
        find_source(config, machine.host)
    told = describe(config, machine.host)
    assert told["interface"] is None
    assert told["problem"]["message"] == caught.value.message
    return caught.value


def test_snp_by_its_device(machine: Machine) -> None:
    device(machine, "sev-guest")
    vmpl(machine, "2\n")
    tee, source = find_source(machine.config(), machine.host)
    assert (tee, type(source)) == (Tee.SNP, SevGuestSource)
    told = describe(machine.config(), machine.host)
    assert (told["tee"], told["provider"], told["interface"]) == ("amd-sev-snp", "sev_guest", "sev-guest")
    assert told["privlevel_floor"] == 2
    assert told["problem"] is None
    assert "module is not loaded" in told["not_used"]["configfs-tsm"]
    assert told["not_used"]["tdx-guest"] == "sev-guest comes first"


def test_tdx_by_its_device(machine: Machine) -> None:
    device(machine, "tdx_guest")
    tee, source = find_source(machine.config(), machine.host)
    assert (tee, type(source)) == (Tee.TDX, TdxGuestSource)
    told = describe(machine.config(), machine.host)
    assert (told["tee"], told["provider"], told["interface"]) == ("intel-tdx", "tdx_guest", "tdx-guest")
    assert told["privlevel_floor"] is None
    assert "sev-guest is not there" in told["not_used"]["sev-guest"]


def test_configfs_comes_first(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    provider(machine, monkeypatch, "tdx_guest")
    device(machine, "sev-guest")
    tee, source = find_source(machine.config(), machine.host)
    assert (tee, type(source)) == (Tee.TDX, TsmSource)
    told = describe(machine.config(), machine.host)
    assert told["interface"] == "configfs-tsm"
    assert told["not_used"] == dict.fromkeys(INTERFACES[1:], "configfs-tsm comes first")


def test_a_device_where_configfs_has_no_provider(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.root.mkdir()
    device(machine, "sev-guest")

    def refuse(*_: object, **__: object) -> None:
        raise refused(errno.ENXIO)

    monkeypatch.setattr("agent.tsm.Path.mkdir", refuse)
    assert isinstance(find_source(machine.config(), machine.host)[1], SevGuestSource)
    assert "no provider" in describe(machine.config(), machine.host)["not_used"]["configfs-tsm"]


def test_no_permission_is_no_reason_to_look_elsewhere(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.root.mkdir()
    device(machine, "sev-guest")

    def refuse(*_: object, **__: object) -> None:
        raise refused(errno.EACCES)

    monkeypatch.setattr("agent.tsm.Path.mkdir", refuse)
    assert type(refusal(machine, machine.config())) is PermissionMissing


def test_a_device_that_may_not_be_opened(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    device(machine, "sev-guest")

    def refuse(*_: object, **__: object) -> int:
        raise refused(errno.EPERM)

    monkeypatch.setattr("agent.device.node.os.open", refuse)
    error = refusal(machine, machine.config())
    assert type(error) is PermissionMissing
    assert "sev-guest: only root" in error.message
    assert describe(machine.config(), machine.host)["tee"] == "amd-sev-snp"


@pytest.mark.parametrize(
    ("interface", "kind"), [("sev-guest", SevGuestSource), ("tdx-guest", TdxGuestSource), ("configfs-tsm", TsmSource)]
)
def test_the_configured_one(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, interface: str, kind: type[object]
) -> None:
    provider(machine, monkeypatch, "sev_guest")
    device(machine, "sev-guest")
    device(machine, "tdx_guest")
    chosen = parse(f'[evidence]\ninterface = "{interface}"', "test").evidence.interface
    config = replace(machine.config(), interface=chosen)
    assert type(find_source(config, machine.host)[1]) is kind
    told = describe(config, machine.host)
    assert told["interface"] == interface
    assert told["not_used"] == {
        name: f'evidence.interface is "{interface}"' for name in INTERFACES if name != interface
    }


def test_the_configured_one_is_not_replaced(machine: Machine) -> None:
    device(machine, "sev-guest")
    error = refusal(machine, replace(machine.config(), interface="tdx-guest"))
    assert (type(error), error.code) == (DeviceMissing, "platform.device-missing.node")
    assert error.message.endswith("tdx_guest is not there")
    error = refusal(machine, replace(machine.config(), interface="configfs-tsm"))
    assert error.code == "platform.device-missing.module"
    assert 'evidence.interface = "auto"' in error.hint


def test_no_interface_at_all_is_told_as_configfs_s_absence(machine: Machine) -> None:
    error = refusal(machine, machine.config())
    assert type(error) is NoTee
    assert "neither are /dev/sev-guest and /dev/tdx_guest" in error.message


def test_a_level_that_is_none(machine: Machine) -> None:
    device(machine, "sev-guest")
    vmpl(machine, "nine\n")
    assert type(refusal(machine, machine.config())) is FirmwareError


def test_the_configuration_names_devices_and_port() -> None:
    text = '[evidence]\nsev_device = "/dev/a"\ntdx_device = "/dev/b"\nqgs_port = 4051\n'
    got = parse(text, "test").evidence
    assert (got.interface, got.sev_device, got.tdx_device, got.qgs_port) == (
        "auto",
        Path("/dev/a"),
        Path("/dev/b"),
        4051,
    )
    assert parse("", "test").evidence.qgs_port == 4050
    for wrong in ('interface = "ioctl"', "qgs_port = 0", 'sev_device = "sev-guest"'):
        with pytest.raises(ConfigError):
            parse(f"[evidence]\n{wrong}\n", "test")


def test_status_says_why_it_is_not_the_common_interface(machine: Machine) -> None:
    device(machine, "sev-guest")
    finding = _tee(describe(machine.config(), machine.host))
    assert finding.state == "ok"
    assert "amd-sev-snp by sev_guest (sev-guest, lowest privilege level 0); not configfs-tsm: " in finding.text
