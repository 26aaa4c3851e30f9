"""Why there is no TEE, in words, on made-up machines; a TEE proper is found in tests/integration/test_tsm.py."""

from __future__ import annotations

import errno
import gzip
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.config import EvidenceConfig
from agent.core.errors import DeviceMissing, NoTee, PlatformError
from agent.diagnosis import Host
from agent.probe import describe, find_source

CONFIGFS = "configfs /sys/kernel/config configfs rw 0 0\n"


class Machine:
    """Folders of a machine under ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "report"
        self.host = Host(folder / "dev", folder / "proc", folder / "sys", folder / "boot", "6.12")
        (self.host.dev).mkdir()
        (self.host.proc / "self").mkdir(parents=True)
        (self.host.sys / "module").mkdir(parents=True)
        self.host.boot.mkdir()
        self.mounts("proc /proc proc rw 0 0\n")

    def mounts(self, text: str) -> None:
        (self.host.proc / "self" / "mounts").write_text(text)

    def kernel(self, line: str) -> None:
        (self.host.boot / "config-6.12").write_text(f"CONFIG_A=y\n{line}\nCONFIG_Z=m\n")

    def config(self) -> EvidenceConfig:
        """Nothing of the machine that the tests run on."""
        return EvidenceConfig(
            tsm_root=self.root,
            sev_device=self.host.dev / "sev-guest",
            tdx_device=self.host.dev / "tdx_guest",
            lock_file=self.root.parent / "lock",
        )

    def error(self) -> PlatformError:
        with pytest.raises(PlatformError) as caught:
            find_source(self.config(), self.host)
        error = caught.value
        assert error.exit_status == 69
        assert error.hint
        assert describe(self.config(), self.host)["problem"] == {
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
        }
        return error


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_at_all(machine: Machine) -> None:
    machine.mounts(CONFIGFS)
    machine.kernel("CONFIG_TSM_REPORTS=m")
    error = machine.error()
    assert type(error) is NoTee
    assert "/dev/sev-guest and /dev/tdx_guest" in error.message


@pytest.mark.parametrize("line", ["# CONFIG_TSM_REPORTS is not set", "CONFIG_OTHER=y"])
def test_kernel_without_the_option(machine: Machine, line: str) -> None:
    machine.kernel(line)
    error = machine.error()
    assert (type(error), error.code) == (NoTee, "platform.no-tee.kernel")
    assert "CONFIG_TSM_REPORTS" in error.message
    (machine.host.dev / "sev-guest").touch()
    error = machine.error()
    assert (type(error), error.code) == (DeviceMissing, "platform.device-missing.kernel")
    assert error.message.startswith("/dev/sev-guest is there")


def test_configfs_not_mounted(machine: Machine) -> None:
    machine.kernel("CONFIG_TSM_REPORTS=y")
    error = machine.error()
    assert (type(error), error.code) == (DeviceMissing, "platform.device-missing.configfs")
    assert error.hint == "mount -t configfs configfs /sys/kernel/config"


def test_report_module_not_loaded(machine: Machine) -> None:
    machine.kernel("CONFIG_TSM_REPORTS=m")
    machine.mounts(CONFIGFS)
    (machine.host.dev / "tdx_guest").touch()
    error = machine.error()
    assert (type(error), error.code) == (DeviceMissing, "platform.device-missing.module")
    assert "modprobe tsm" in error.hint
    assert describe(machine.config(), machine.host)["tee"] == "intel-tdx"


def test_old_kernel_of_unknown_make_with_a_device(machine: Machine) -> None:
    machine.mounts(CONFIGFS)
    (machine.host.dev / "sev-guest").touch()
    assert machine.error().code == "platform.device-missing.kernel"


@pytest.mark.parametrize(
    ("line", "option"),
    [("CONFIG_TSM_REPORTS=y", "y"), ("CONFIG_TSM_REPORTS=m", "m"), ("# CONFIG_TSM_REPORTS is not set", "n"), ("", "n")],
)
def test_kernel_option_from_either_file(machine: Machine, line: str, option: str) -> None:
    assert machine.host.kernel_option() == "unknown"
    (machine.host.proc / "config.gz").write_bytes(gzip.compress(f"CONFIG_A=y\n{line}\n".encode()))
    assert machine.host.kernel_option() == option
    (machine.host.proc / "config.gz").write_bytes(b"not gzip")
    assert machine.host.kernel_option() == "unknown"
    machine.kernel(line)
    assert machine.host.kernel_option() == option


def test_an_unknown_provider(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.root.mkdir()
    monkeypatch.setattr("agent.probe.Entry.provider", lambda _: "arm_cca_guest")
    with pytest.raises(NoTee, match="arm_cca_guest"):
        find_source(machine.config(), machine.host)
    told = describe(machine.config(), machine.host)
    assert (told["provider"], told["tee"]) == ("arm_cca_guest", None)
    assert list(machine.root.iterdir()) == []


def test_probing_leaves_nothing_behind_on_errors(machine: Machine) -> None:
    machine.root.mkdir()  # a plain folder: entries have no attributes
    assert describe(machine.config(), machine.host)["problem"]["code"] == "firmware"
    assert list(machine.root.iterdir()) == []


@pytest.mark.parametrize("loaded", [True, False])
def test_an_interface_without_provider(machine: Machine, monkeypatch: pytest.MonkeyPatch, loaded: bool) -> None:
    machine.root.mkdir()
    if loaded:
        (machine.host.sys / "module" / "sev_guest").mkdir()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENXIO, "No such device or address")

    monkeypatch.setattr("agent.tsm.Path.mkdir", refuse)
    error = machine.error()
    assert (type(error), error.code) == (NoTee, "platform.no-tee.provider")
    assert ("module sev_guest is loaded, but" in error.message) == loaded
    assert ("modprobe" in error.hint) != loaded


def test_an_interface_that_vanishes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.root.mkdir()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("agent.tsm.Path.mkdir", refuse)
    assert machine.error().code == "platform.no-tee"


@pytest.mark.parametrize("name", ["sev_guest", "tdx_guest"])
def test_loaded_modules_are_listed(machine: Machine, name: str) -> None:
    (machine.host.sys / "module" / name).mkdir()
    assert describe(machine.config(), machine.host)["modules"] == [name]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.root
def test_without_root(shared: Path) -> None:
    """A user without rights: PermissionMissing, and what the device node tells."""
    machine = Machine(shared)
    machine.root.mkdir()
    (machine.host.dev / "sev-guest").touch()
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[3])!r})
from pathlib import Path
from agent.core.config import EvidenceConfig
from agent.core.errors import PermissionMissing
from agent.diagnosis import Host
from agent.probe import describe, find_source
folder = Path({str(shared)!r})
host = Host(*(folder / name for name in ("dev", "proc", "sys", "boot")), "6.12")
config = EvidenceConfig(tsm_root=folder / "report", lock_file=folder / "lock")
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
told = describe(config, host)
assert told["tee"] == "amd-sev-snp", told
assert told["problem"]["code"] == "platform.permission", told
try:
    find_source(config, host)
except PermissionMissing as error:
    assert "run as root" in error.hint
else:
    raise SystemExit(1)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
