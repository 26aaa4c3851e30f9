"""Which files this boot and the next one are made of, and what the processors say of themselves."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from agent.admin import bootfiles, inputs, predict
from agent.admin.bootfiles import Files
from agent.core.errors import Oversized, UsageError
from agent.core.measuredconfig import MeasuredConfig

RELEASE = os.uname().release
NEWER = "999.1.0-1-amd64"


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    """A /boot with the running kernel and a newer one, and a command line that names the running one."""
    folder = tmp_path / "boot"
    folder.mkdir()
    for release in (RELEASE, NEWER):
        (folder / f"vmlinuz-{release}").write_bytes(b"k")
        (folder / f"initrd.img-{release}").write_bytes(b"i")
    (tmp_path / "cmdline").write_text(f"BOOT_IMAGE=/vmlinuz-{RELEASE} ro\n")
    return folder


def test_the_running_kernel_is_found_by_its_name(boot: Path) -> None:
    line = f"BOOT_IMAGE=/vmlinuz-{RELEASE} ro"
    here = Files(boot / f"vmlinuz-{RELEASE}", boot / f"initrd.img-{RELEASE}", line)
    assert next(bootfiles.running(MeasuredConfig(), boot=boot, line=boot.parent / "cmdline")) == here


def test_what_is_configured_comes_first(boot: Path) -> None:
    config = MeasuredConfig(kernel=Path("/k"), initrd=Path("/i"), cmdline="ro")
    found = list(bootfiles.running(config, boot=boot, line=boot.parent / "cmdline"))
    assert found[0] == Files(Path("/k"), Path("/i"), "ro")
    assert len(found) == len(set(found)) >= 3
    assert all(one.complete for one in found)


def test_without_any_kernel_nothing_is_made_up(tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_text("ro\n")
    found = bootfiles.running(MeasuredConfig(), boot=tmp_path, line=tmp_path / "cmdline")
    assert [one for one in found if one.uki is None] == []


def test_the_next_boot_is_the_newest_kernel_and_its_name_in_the_command_line(boot: Path) -> None:
    now = Files(boot / f"vmlinuz-{RELEASE}", None, f"BOOT_IMAGE=/vmlinuz-{RELEASE} ro")
    found = bootfiles.coming(MeasuredConfig(), now, boot=boot)
    assert found == Files(boot / f"vmlinuz-{NEWER}", boot / f"initrd.img-{NEWER}", f"BOOT_IMAGE=/vmlinuz-{NEWER} ro")
    named = bootfiles.coming(MeasuredConfig(kernel=Path("/k"), cmdline="rw"), now, boot=boot)
    assert (named.kernel, named.cmdline) == (Path("/k"), "rw")
    assert bootfiles.coming(MeasuredConfig(), now, boot=boot.parent) == Files(now.kernel, None, now.cmdline)


def test_unified_images_the_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("a.efi", "b.efi", "c.txt")):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (number, number))
    assert bootfiles.unified((tmp_path, tmp_path / "missing")) == [tmp_path / "b.efi", tmp_path / "a.efi"]
    monkeypatch.setattr(bootfiles, "UNIFIED", (tmp_path,))
    now = Files(uki=tmp_path / "a.efi", cmdline="ro")
    assert bootfiles.coming(MeasuredConfig(uki=Path("/u")), now) == Files(uki=Path("/u"), cmdline="ro")


def test_processors_as_the_kernel_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    present, info = tmp_path / "present", tmp_path / "cpuinfo"
    monkeypatch.setattr(bootfiles, "_PRESENT", present)
    monkeypatch.setattr(bootfiles, "_CPUINFO", info)
    for text, number in (("0\n", 1), ("0-3\n", 4), ("0,2-7", 8)):
        present.write_text(text)
        assert bootfiles.processors() == number
    present.write_text("many")
    with pytest.raises(UsageError):
        bootfiles.processors()
    info.write_text("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: x\nstepping\t: 1\n")
    assert bootfiles.processor() == (25, 17, 1)
    launch = predict.launch(MeasuredConfig(vcpus=2))
    assert (launch.vcpus, launch.cpu) == (2, 0x00A10F11)
    assert predict.launch(MeasuredConfig(vcpus=2, vcpu_type="0x123")).cpu == 0x123
    info.write_text("model : 17\n")
    with pytest.raises(UsageError):
        bootfiles.processor()


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    inputs.add_boot(parser)
    inputs.add_running(parser)
    return parser.parse_args(words)


def test_the_command_line_overrides_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "line").write_text("quiet\n")
    config = MeasuredConfig(ovmf=Path("/o"), vcpus=2, cmdline="ro")
    assert inputs.merged(config, arguments()) == config
    words = ["--vcpus", "4", "--cmdline-file", str(tmp_path / "line"), "--guest-features", "0x21", "--eventlog", "/l"]
    found = inputs.merged(config, arguments(*words))
    assert (found.vcpus, found.cmdline, found.guest_features) == (4, "quiet", 0x21)
    assert (found.ovmf, found.event_log) == (Path("/o"), Path("/l"))
    for bad in ("-1", "x", str(1 << 64)):
        with pytest.raises(UsageError):
            inputs.merged(config, arguments(f"--guest-features={bad}"))


def test_another_machine_s_boot_is_named_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "line").write_text("ro\n")
    assert inputs.running(arguments()) is None
    words = ["--running-kernel", "/k", "--running-cmdline-file", str(tmp_path / "line")]
    assert inputs.running(arguments(*words)) == Files(kernel=Path("/k"), cmdline="ro")
    with pytest.raises(UsageError):
        inputs.running(arguments(*words[:2]))


def test_what_is_no_command_line(tmp_path: Path) -> None:
    (tmp_path / "line").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError):
        bootfiles.command_line(tmp_path / "line")
    (tmp_path / "line").write_bytes(b"x" * (bootfiles.MAX_COMMAND_LINE + 1))
    with pytest.raises(Oversized):
        bootfiles.command_line(tmp_path / "line")
