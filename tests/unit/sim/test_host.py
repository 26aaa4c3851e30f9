"""Where the simulator refuses to start, and what its command line says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.core.errors import Conflict, PermissionMissing, UsageError
from sim import cli, host
from sim.fuse import FSNAME
from sim.host import GenuineTee

_MOUNTS = "36 25 0:32 / {} rw,relatime shared:1 - {} {} rw\n"


def machine(root: Path, *marks: str, flags: str = "fpu sse", mounts: str = "") -> Path:
    """A file system root with these files."""
    files = {"proc/cpuinfo": f"processor: 0\nflags : {flags}\n", "proc/self/mountinfo": mounts}
    files |= dict.fromkeys(marks, "")
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_an_ordinary_machine_is_accepted(tmp_path: Path) -> None:
    host.refuse_genuine(machine(tmp_path))
    host.refuse_genuine(tmp_path / "without" / "proc")


@pytest.mark.parametrize("mark", ["dev/sev-guest", "dev/tdx_guest", "sys/devices/system/cpu/sev/vmpl"])
def test_a_genuine_device_is_refused(tmp_path: Path, mark: str) -> None:
    with pytest.raises(GenuineTee, match=f"/{mark}") as caught:
        host.refuse_genuine(machine(tmp_path, mark))
    assert (caught.value.exit_status, caught.value.code) == (69, "platform.genuine-tee")


def test_a_trust_domain_without_driver_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GenuineTee, match="tdx_guest"):
        host.refuse_genuine(machine(tmp_path, flags="fpu tdx_guest sse"))


def test_configfs_with_a_provider_is_refused(tmp_path: Path) -> None:
    report = tmp_path / "sys/kernel/config/tsm/report"
    machine(tmp_path, f"{report.relative_to(tmp_path)}/{host._PROBE}/provider")
    with pytest.raises(GenuineTee, match="configfs-tsm with a provider"):
        host.refuse_genuine(tmp_path)


def test_configfs_without_provider_is_accepted(tmp_path: Path) -> None:
    report = tmp_path / "sys/kernel/config/tsm/report"
    report.mkdir(parents=True)
    host.refuse_genuine(machine(tmp_path))
    assert not list(report.iterdir()), "the probe is removed"


def test_another_simulator_is_not_mistaken_for_a_tee(tmp_path: Path) -> None:
    report = tmp_path / "sys/kernel/config/tsm/report"
    mounts = _MOUNTS.format(report, "fuse", FSNAME)
    machine(tmp_path, f"{report.relative_to(tmp_path)}/{host._PROBE}/provider", mounts=mounts)
    host.refuse_genuine(tmp_path)


def test_mountinfo_names_the_topmost_source(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(_MOUNTS.format("/a\\040b", "configfs", "none") + _MOUNTS.format("/a\\040b", "fuse", FSNAME))
    assert host._mounts(table) == {"/a b": FSNAME}


def test_mount_point_is_made_if_missing(tmp_path: Path) -> None:
    assert host.prepare_mountpoint(tmp_path / "a" / "b")
    assert not host.prepare_mountpoint(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(Conflict, match="not a directory"):
        host.prepare_mountpoint(tmp_path / "file")


def test_unmounting_what_is_not_mounted(tmp_path: Path) -> None:
    host.unmount(tmp_path)
    host.unmount(tmp_path / "missing")


def test_root_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionMissing):
        host.require_privileges()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[3]
    argv = [sys.executable, "-m", "sim", *arguments]
    return subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=60, check=False)


def test_help_explains_itself() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("configfs-tsm", "examples:", "--fault", "generation-race", "throttle", "root.pem", "genuine TEE"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tee", "snp", "--fault", "nonsense"], "unknown fault 'nonsense'"),
        (["--tee", "snp", "--product", "turin", "--report-version", "2"], "Turin has no version 2"),
    ],
)
def test_usage_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    places = ["--mount", str(tmp_path / "m"), "--state", str(tmp_path / "s")]
    assert cli.main([*options, *places]) == UsageError.exit_status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["00", "zz" * 48, "00" * 49])
def test_a_digest_has_48_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    with pytest.raises(SystemExit):
        cli.parser().parse_args(
            ["--tee", "snp", "--mount", str(tmp_path), "--state", str(tmp_path), "--measurement", value]
        )
    assert "--measurement" in capsys.readouterr().err


def test_a_genuine_machine_gets_exit_69(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = machine(tmp_path / "root", "dev/sev-guest")
    check = host.refuse_genuine
    monkeypatch.setattr(host, "refuse_genuine", lambda: check(genuine))
    state = tmp_path / "s"
    assert cli.main(["--tee", "snp", "--mount", str(tmp_path / "m"), "--state", str(state)]) == 69
    assert "genuine TEE" in capsys.readouterr().err
    assert not state.exists()
